"""The error tree: every error that this package raises for a user's mistake or a failing source.

::

    BackboneError
    ├── UnknownBackboneError (ValueError)       no such model, or a name that could mean several
    ├── ConfigError (ValueError)                a field, level, stride or argument that cannot be honored
    ├── InputError (ValueError)                 a tensor or an image that the backbone cannot take
    │   └── InputSizeError                      ... because of its height or width
    ├── UnsupportedError (NotImplementedError)  the architecture has no such ability
    └── WeightsError (RuntimeError)
        ├── WeightsNotFoundError                no such file, repository, revision or published weights
        ├── WeightsUnavailableError             the network or the Hub is out of reach
        ├── GatedWeightsError                   the license of the repository was not accepted
        ├── WeightsCorruptedError               a file that is not a readable checkpoint
        └── WeightsMismatchError                a readable checkpoint of something else

Each message names the value, the fault and the remedy. Where another library's error is behind it,
that error is the ``__cause__``. Passwords and signatures in addresses are hidden.
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
    """A tensor or an image is not what the backbone takes."""


class InputSizeError(InputError):
    """An image's height or width is not one that the backbone takes."""


class UnsupportedError(BackboneError, NotImplementedError):
    """The architecture does not have the ability asked for."""


class WeightsError(BackboneError, RuntimeError):
    """Base of the errors about weights."""


class WeightsNotFoundError(WeightsError):
    """There is no such file, repository, revision, or published checkpoint."""


class WeightsUnavailableError(WeightsError):
    """The weights exist or may exist, but the network or the Hub is out of reach."""


class GatedWeightsError(WeightsError):
    """The repository asks for its license to be accepted first."""


class WeightsCorruptedError(WeightsError):
    """The file is not a readable checkpoint."""


class WeightsMismatchError(WeightsError):
    """The checkpoint is readable, but does not fit the backbone."""
