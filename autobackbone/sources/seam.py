"""The seam between this package and the libraries that hold the models.

A `Source` is a library. It answers two questions: `Source.describe`, what is known of a model without building it, and
`Source.plan`, which native levels a request can choose from and how the model is built. What is built comes back as a
`NativeModel`. Above the seam nothing knows which library it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from autobackbone.catalog.records import ModelRecord
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.input_spec import InputSpec
from autobackbone.levels import NativeLevel
from autobackbone.names import ModelRef

if TYPE_CHECKING:
    from torch import nn

    from autobackbone.weights.report import WeightsReport


class Source(Protocol):
    """A library that has models.

    Attributes
    ----------
    name
        What the catalog calls it.
    """

    name: str

    def describe(self, ref: ModelRef) -> ModelRecord:
        """Return what the library declares of a model, and what is measured of it: its native levels and sizes.

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
        ConfigError
            If `config` holds an argument that cannot be honored.
        UnsupportedError
            If the architecture lacks an ability asked for.
        """

    def check_saved(self, ref: ModelRef, extra_kwargs: Mapping[str, Any], where: str) -> None:
        """Refuse arguments of a saved config that a file may not set.

        Raises
        ------
        ConfigError
            If there is one; `where` is what the file is called in the message.
        """


class Plan(Protocol):
    """A reference and a config, resolved: what there is before anything is built.

    Attributes
    ----------
    config
        With what the reference itself says of fields that were left at their defaults.
    """

    config: BackboneConfig | FeatureBackboneConfig

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index."""

    def build(self, indices: tuple[int, ...]) -> "NativeModel":
        """Build the backbone up to the deepest of `indices`, which are ascending."""

    def build_pooled(self) -> "NativeModel":
        """Build the whole backbone, with pooled output or a head."""


@dataclass(frozen=True)
class NativeModel:
    """What a source builds.

    Attributes
    ----------
    module
        Of levels: takes ``(B, C, H, W)``, returns a list with one NCHW map per requested native index, shallow to
        deep. It has ``set_grad_checkpointing(enable)``. Nothing in it is deeper than the deepest of those levels, and
        every parameter that requires a gradient gets one. Pooled: takes the same, returns ``(B, num_features)`` or
        ``(B, num_classes)``.
    input_spec
        What it takes as input.
    built_size
        ``(height, width)`` that it was built for, if that is the one size it takes; else ``None``.
    weights_report
        What was loaded; ``None`` for random weights.
    license
        Of the published weights, if it is known.
    portable
        Fields of the config to change for it to mean the same on another machine.
    checkpoint
        What the file given as ``weights`` holds, for what is added to the module.
    network
        Where in the module the library's own network is, as a path of submodules; empty if that is the module.
    """

    module: "nn.Module"
    input_spec: InputSpec
    built_size: tuple[int, int] | None
    weights_report: "WeightsReport | None"
    license: str | None = None
    portable: dict[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None
    network: str = ""
