"""Records: what is known of a backbone without building it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from autobackbone.levels import NativeLevel


class PublishedInput(NamedTuple):
    """The images that published weights were made for.

    Attributes
    ----------
    in_chans
        Channels.
    size
        Height and width in pixels.
    mean, std
        By channel, of values in [0, 1].
    interpolation, crop_pct, crop_mode
        How an image is brought to `size`, as `InputSpec` has it.
    """

    in_chans: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str


class PublishedWeights(NamedTuple):
    """Weights that a library publishes for an architecture.

    Attributes
    ----------
    name
        The model name that means these weights, such as ``"resnet50.a1_in1k"``.
    tag
        What tells them from others of the architecture, such as ``"a1_in1k"``.
    input
        The images that they were made for.
    license
        As it is published; ``None`` if it is not stated.
    hub_id
        Their repository; ``None`` if there is none.
    """

    name: str
    tag: str
    input: PublishedInput
    license: str | None
    hub_id: str | None


@dataclass(frozen=True)
class ModelFacts:
    """What was measured of an architecture.

    Attributes
    ----------
    levels
        Every native level, by index.
    min_size
        Smallest height and width in pixels of the levels that are not bound to one size; 0 if all are.
    square
        Whether the one size that it is built for must be a square.
    any_size_kwargs
        Arguments that make the library accept any size.
    output_fmt
        What the intermediates are asked for in: ``"NCHW"``, or ``"NLC"`` where the library's own reshape needs data.
    norm_channels
        Channels of the maps after the final norm that they can be taken through; 0 if there is none.
    has_unused_params
        Whether a parameter can be without a gradient, depending on the levels taken.
    any_channels
        Whether it takes images of any number of channels, and not only of that of its published weights.
    pooled_divisor
        What height and width must be multiples of in the pooled form; 0 if it is what the deepest level says.
    pooled_min_size
        Smallest height and width in pixels of the pooled form; 0 if it is that of the levels, in multiples.
    """

    levels: tuple[NativeLevel, ...]
    min_size: int
    square: bool = False
    any_size_kwargs: dict[str, bool] = field(default_factory=dict)
    output_fmt: str = "NCHW"
    norm_channels: int = 0
    has_unused_params: bool = False
    any_channels: bool = True
    pooled_divisor: int = 0
    pooled_min_size: int = 0


@dataclass(frozen=True)
class ModelRecord:
    """What is known of a backbone: what its library declares, and what was measured.

    Attributes
    ----------
    name
        Of the architecture.
    source
        The library that builds it.
    family
        The library's module or model type.
    input
        The images of the default weights.
    weights
        Published weights, the default ones first.
    facts
        Measured levels and sizes; ``None`` if they were not measured yet.
    params
        Parameters without a classifier; ``None`` if they were not counted yet.
    macs
        Multiply-accumulates of one image of the default size; ``None`` if they were not counted yet.
    exportable
        Whether torch.export takes it; ``None`` if that was not tried yet.
    """

    name: str
    source: str
    family: str
    input: PublishedInput
    weights: tuple[PublishedWeights, ...]
    facts: ModelFacts | None = None
    params: int | None = None
    macs: int | None = None
    exportable: bool | None = None

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index; they must have been measured."""
        assert self.facts is not None, f"{self.name} was not measured"
        return self.facts.levels

    def weights_of(self, tag: str | None) -> PublishedWeights | None:
        """Return the weights with a tag, or the default ones; ``None`` if there are none."""
        return next((weights for weights in self.weights if tag is None or weights.tag == tag), None)
