"""The error tree: every error that this package raises for a user's mistake or for weights that cannot be loaded.

::

    BackboneError
    ├── UnknownBackboneError (ValueError)       no such model, or a name that could mean several
    ├── ConfigError (ValueError)                a field, level, stride or argument that cannot be honored
    ├── InputError (ValueError)                 a tensor or an image that the backbone does not accept
    │   └── InputSizeError                      ... because of its height or width
    ├── OutputError (OSError)                   results cannot be written, or a folder holds something else
    ├── UnsupportedError (NotImplementedError)  the architecture does not support the feature
    └── WeightsError (RuntimeError)
        ├── WeightsNotFoundError                no such file, repository, revision or published weights
        ├── WeightsUnavailableError             the network or the Hub is out of reach
        ├── GatedWeightsError                   the license of the repository was not accepted
        ├── WeightsCorruptedError               a file that is not a readable checkpoint
        └── WeightsMismatchError                a readable checkpoint of something else

Each message names the value, the fault and the remedy. If another library's error is the reason, it is
the ``__cause__``. Passwords and signatures in addresses are hidden.
"""

from autobackbone.addresses import redacted_in


class BackboneError(Exception):
    """Base of every error of this package."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted_in(arg) if isinstance(arg, str) else arg for arg in args))


class UnknownBackboneError(BackboneError, ValueError):
    """The name fits no backbone, or fits several."""


class ConfigError(BackboneError, ValueError):
    """A config field, level, stride or argument cannot be honored."""


class InputError(BackboneError, ValueError):
    """The backbone does not accept this tensor or image."""


class InputSizeError(InputError):
    """The backbone does not accept the height or width of the images."""


class OutputError(BackboneError, OSError):
    """Results cannot be written: the disk is full, the folder is read-only or in use, or it holds something else."""


class UnsupportedError(BackboneError, NotImplementedError):
    """The architecture does not support the requested feature."""


class WeightsError(BackboneError, RuntimeError):
    """Base of the errors about weights."""


class WeightsNotFoundError(WeightsError):
    """There is no such file, repository, revision, or published checkpoint."""


class WeightsUnavailableError(WeightsError):
    """The network or the Hub is out of reach; the weights may exist."""


class GatedWeightsError(WeightsError):
    """The license of the repository must be accepted first."""


class WeightsCorruptedError(WeightsError):
    """The file is not a readable checkpoint."""


class WeightsMismatchError(WeightsError):
    """The checkpoint is readable, but does not fit the backbone."""
