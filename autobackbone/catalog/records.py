"""Records: the facts about a backbone that are known without building it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from autobackbone.input_spec import InputSpec, repeat_to
from autobackbone.levels import NativeLevel

COMMERCIAL = frozenset({"apache-2.0", "bsd-3-clause", "cc-by-4.0", "mit"})
"""Licenses that allow commercial use, and ask for no more than that the authors are named."""


class PublishedInput(NamedTuple):
    """The images that published weights were trained for.

    Attributes
    ----------
    in_chans
        Channels.
    size
        Height and width in pixels.
    mean, std
        Per channel, for values in [0, 1].
    interpolation, crop_pct, crop_mode
        How an image is brought to `size`, as in `InputSpec`.
    """

    in_chans: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str

    def to_spec(
        self,
        *,
        min_size: int | None,
        fixed_size: bool,
        size_divisor: int | None,
        in_chans: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> InputSpec:
        """Return the input of a backbone that is made for these images.

        Parameters
        ----------
        min_size, fixed_size, size_divisor
            As of `InputSpec`. ``None`` is 1: any size.
        in_chans, size
            Instead of those of the weights. Mean and std are repeated as the weights of the stem are.
        """
        channels, own_size = in_chans or self.in_chans, size or self.size
        return InputSpec(
            in_chans=channels,
            size=own_size,
            mean=repeat_to(self.mean, channels),
            std=repeat_to(self.std, channels),
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            min_size=min(own_size) if fixed_size else min_size or 1,
            fixed_size=fixed_size,
            size_divisor=size_divisor or 1,
        )


class PublishedWeights(NamedTuple):
    """Weights that a library publishes for an architecture.

    Attributes
    ----------
    name
        The model name that means these weights, such as ``"resnet50.a1_in1k"``.
    tag
        The tag that distinguishes them from other weights of the architecture, such as ``"a1_in1k"``.
    input
        The images that they were trained for.
    license
        The license as published; ``None`` if it is not stated.
    hub_id
        Their repository; ``None`` if there is none.
    ungated
        The name of the same weights without a gate, if that repository has one; ``None`` if it has none.
    """

    name: str
    tag: str
    input: PublishedInput
    license: str | None
    hub_id: str | None
    ungated: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The measured facts about an architecture.

    Attributes
    ----------
    levels
        Every native level, by index.
    min_size
        Smallest height and width in pixels for the levels without a fixed size; ``None`` if all have a fixed size.
    square
        Whether a fixed size must be a square.
    any_size_kwargs
        Arguments that make the library accept any size.
    output_fmt
        The format to request intermediates in: ``"NCHW"``, or ``"NLC"`` where the library's own reshape needs data.
    norm_channels
        Channels of the maps after the final norm; ``None`` if the maps cannot be passed through a final norm.
    has_unused_params
        Whether a parameter can lack a gradient, depending on the requested levels.
    any_channels
        Whether it accepts images with any number of channels, not only that of its published weights.
    prefix_tokens
        How many tokens it gives beside its maps, by kind and in order; empty if there are none.
    pooled_size_divisor
        Height and width must be multiples of this in the pooled form; ``None`` if it is the
        divisor of the deepest level.
    pooled_min_size
        Smallest height and width in pixels of the pooled form; ``None`` if it is `min_size`, rounded up to the divisor.
    """

    levels: tuple[NativeLevel, ...]
    min_size: int | None
    square: bool = False
    any_size_kwargs: dict[str, bool] = field(default_factory=dict)
    output_fmt: str = "NCHW"
    norm_channels: int | None = None
    has_unused_params: bool = False
    any_channels: bool = True
    prefix_tokens: dict[str, int] = field(default_factory=dict)
    pooled_size_divisor: int | None = None
    pooled_min_size: int | None = None


@dataclass(frozen=True)
class ModelRecord:
    """The facts about a backbone: those that its library declares, and the measured ones.

    Attributes
    ----------
    name
        Name of the architecture.
    source
        The library that builds it.
    family
        The library's module or model type.
    input
        The images of the default weights.
    weights
        Published weights, the default ones first.
    facts
        Measured levels and sizes; ``None`` before they are measured.
    params
        Parameters without a classifier; ``None`` before they are counted.
    macs
        Multiply-accumulates for one image of the default size; ``None`` before they are counted.
    activations
        Numbers that one image of the default size leaves for the backward pass; ``None`` before they are counted.
    exportable
        Whether torch.export can export it; ``None`` before that is tried.
    """

    name: str
    source: str
    family: str
    input: PublishedInput
    weights: tuple[PublishedWeights, ...]
    facts: ModelFacts | None = None
    params: int | None = None
    macs: int | None = None
    activations: int | None = None
    exportable: bool | None = None

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index. They must have been measured."""
        assert self.facts is not None, f"{self.name} was not measured"
        return self.facts.levels

    def weights_of(self, tag: str | None) -> PublishedWeights | None:
        """Return the weights with a tag, or the default weights if it is ``None``; ``None`` if there are none."""
        return next((weights for weights in self.weights if tag is None or weights.tag == tag), None)
