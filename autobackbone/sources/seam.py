"""The seam between this package and the libraries that hold the models.

A `Source` is a library. It answers two questions. `Source.describe`: what is known of a model without building it?
`Source.plan`: which native levels can a request choose from, and how is the model built? A built model comes back as a
`NativeModel`. Nothing above the seam knows which library it came from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from autobackbone.catalog.records import ModelRecord
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.input_spec import InputSpec
from autobackbone.levels import NativeLevel
from autobackbone.names import ModelRef

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autobackbone.weights.checkpoint import Checkpoint
    from autobackbone.weights.report import WeightsReport
    from autobackbone.weights.rules import CheckpointRules


class Source(Protocol):
    """A library that has models.

    Attributes
    ----------
    name
        Its name in the catalog.
    """

    name: str

    def describe(self, ref: ModelRef) -> ModelRecord:
        """Return what the library declares of a model, with its native levels and sizes as they were measured.

        Raises
        ------
        UnknownBackboneError
            If a config on the Hub or in a folder names an architecture that the library does not have.
        WeightsError
            If such a config cannot be had.
        """

    def plan(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> "Plan":
        """Return how a model is built.

        Raises
        ------
        UnknownBackboneError
            If a config on the Hub or in a folder names an architecture that the library does not have.
        ConfigError
            If `config` has an argument that cannot be honored.
        InputSizeError
            If the architecture cannot be built for `img_size`.
        UnsupportedError
            If the architecture lacks an ability that `config` asks for.
        WeightsError
            If the config on the Hub or in a folder cannot be had.
        """

    def check_saved(self, ref: ModelRef, extra_kwargs: Mapping[str, Any], where: str) -> None:
        """Refuse arguments of a saved config that a file may not set.

        Raises
        ------
        ConfigError
            If there is one. The message calls the file `where`.
        """


class Plan(Protocol):
    """A reference and a config, resolved: everything that is known before a model is built."""

    @property
    def config(self) -> BackboneConfig | FeatureBackboneConfig:
        """The config, with values that the reference itself sets for fields that were left at their defaults."""

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index."""

    def build(self, indices: tuple[int, ...], checkpoint: "Checkpoint | None") -> "NativeModel":
        """Build the backbone up to the deepest of some native levels.

        Parameters
        ----------
        indices
            The levels to return, ascending.
        checkpoint
            The weights that the config names; ``None`` for published or random ones, as the config says.

        Raises
        ------
        ConfigError
            If the library cannot build it with these arguments.
        InputSizeError
            If the architecture cannot be built for `img_size`.
        WeightsError
            If the weights cannot be had, or do not fit.
        """

    def build_pooled(self, checkpoint: "Checkpoint | None") -> "NativeModel":
        """Build the whole backbone, with pooled output or a head; `build` lists the errors.

        Raises
        ------
        UnsupportedError
            If the architecture has no pooled output.
        """


@dataclass(frozen=True, eq=False)
class Attachment:
    """What this package keeps of a backbone beside its modules: the attribute ``autobackbone`` of both kinds.

    It is replaced, not changed (`change_attachment`), so that copies of a backbone do not affect each other.

    Attributes
    ----------
    input_spec
        What the backbone takes as input.
    weights_report
        What was loaded last; ``None`` for random weights.
    license
        Of the published weights; ``None`` if it is not known.
    rules
        How checkpoints are matched to the library's own network.
    native_maps
        Takes what the source built and ``(B, C, H, W)`` images. Returns the map of every native level up to the
        deepest, without the final norm.
    network_path
        Path of submodules from the backbone to the library's own network, without wrappers that may be put in between;
        empty if they are one.
    input_checks
        What a source remembers of images that it has checked.
    config
        Of a pooled backbone, resolved; a `FeatureBackbone` has its own.
    """

    input_spec: InputSpec
    weights_report: "WeightsReport | None"
    license: str | None
    rules: "CheckpointRules"
    native_maps: "Callable[[nn.Module, Tensor], list[Tensor]]"
    network_path: str = ""
    input_checks: Any = None
    config: BackboneConfig | None = None


@dataclass(frozen=True)
class NativeModel:
    """A model that a source built.

    Attributes
    ----------
    module
        If it was built for levels: takes ``(B, C, H, W)`` and returns one NCHW map per requested native level, shallow
        to deep. It has ``set_grad_checkpointing(enable)``, nothing deeper than the deepest of these levels, and a
        gradient for every parameter that requires one. Its ``prefix_tokens`` are the numbers of tokens that it has
        beside the maps, by kind and in order. If there are some, ``forward_tokens(x)`` gives pairs: each map, and its
        tokens, ``(B, N, C)``. If it is pooled: takes the same and returns ``(B, num_features)`` or
        ``(B, num_classes)``.
    attachment
        What the package keeps of it.
    built_size
        ``(height, width)`` of the only images that it takes; ``None`` if it takes any size.
    portable_fields
        Fields of the config to change so that it means the same on another machine.
    """

    module: "nn.Module"
    attachment: Attachment
    built_size: tuple[int, int] | None = None
    portable_fields: dict[str, Any] = field(default_factory=dict)


def attachment_of(module: "nn.Module") -> Attachment | None:
    """Return the attachment of a backbone of either kind; ``None`` for any other module.

    Wrappers that pass attributes on have none of their own.
    """
    attachment = vars(module).get("autobackbone")
    return attachment if isinstance(attachment, Attachment) else None


def change_attachment(module: "nn.Module", **changes: Any) -> None:
    """Replace fields of the attachment of a backbone."""
    attachment = attachment_of(module)
    assert attachment is not None, "only backbones have one"
    module.autobackbone = replace(attachment, **changes)  # type: ignore[assignment]  # a plain attribute
