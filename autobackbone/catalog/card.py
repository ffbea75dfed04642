"""The card of a backbone: what there is to know before anything is built or downloaded."""

from dataclasses import asdict, dataclass
from typing import Any

from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel


@dataclass(frozen=True)
class BackboneCard:
    """What is known of a backbone before anything is built or downloaded.

    Attributes
    ----------
    name
        Its canonical name, with the tag of the weights if that was given.
    source
        ``"timm"`` or ``"dinov3"`` (through transformers).
    family
        timm's module, such as ``"resnet"``, or transformers' model type.
    params
        Parameters without a classifier.
    macs
        Multiply-accumulates of one image of the default weights' size: convolutions and matrix products.
    levels
        Every native level, shallow to deep.
    input_spec
        What it takes as input, with the weights of this name.
    divisor
        What height and width are padded to a multiple of; if it takes one size, what that is padded to when it is
        built, or 0 if it cannot be built for another.
    exportable
        Whether torch.export takes it at a given size.
    license
        Of the weights of this name, as it is published; ``None`` if it is not stated, or there are no weights.
    hub_id
        The repository of the weights of this name; ``None`` if there is none.
    pretrained_tags
        Names of the published weights, the default ones first. Each can be used as a model name.
    """

    name: str
    source: str
    family: str
    params: int
    macs: int
    levels: tuple[FeatureLevel, ...]
    input_spec: InputSpec
    divisor: int
    exportable: bool
    license: str | None
    hub_id: str | None
    pretrained_tags: tuple[str, ...]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every native level."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every native level."""
        return tuple(level.stride for level in self.levels)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels that the weights of this name were made for."""
        return self.input_spec.size

    @property
    def min_size(self) -> int:
        """Smallest height and width in pixels; those of `input_size` if it takes that one only."""
        return self.input_spec.min_size

    @property
    def fixed_size(self) -> bool:
        """Whether the whole backbone takes the one size only that it is built for."""
        return self.input_spec.fixed_size

    @property
    def any_size(self) -> bool:
        """Whether it takes images of any size from `min_size` on."""
        return not self.fixed_size

    @property
    def exact(self) -> bool:
        """Whether every level has its own grid's cells; if not, some are resampled."""
        return all(level.exact for level in self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return fields and properties as plain values."""
        names = ("channels", "strides", "input_size", "min_size", "fixed_size", "any_size", "exact")
        values = asdict(self) | {name: getattr(self, name) for name in names}
        return values | {"input_spec": self.input_spec.to_dict()}
