"""The card of a backbone: its facts, known before anything is built or downloaded."""

from dataclasses import asdict, dataclass
from typing import Any

from autobackbone.catalog.figures import Accuracy, Throughput
from autobackbone.catalog.records import COMMERCIAL
from autobackbone.catalog.uses import Use
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel


@dataclass(frozen=True)
class BackboneCard:
    """The facts about a backbone, known before anything is built or downloaded.

    Attributes
    ----------
    name
        Its canonical name, with the tag of the weights if the request had one.
    source
        ``"timm"`` or ``"dinov3"`` (through transformers).
    family
        timm's module, such as ``"resnet"``, or transformers' model type.
    params
        Parameters without a classifier.
    macs
        Multiply-accumulates of convolutions and matrix products, for one image of the default weights' size.
    activations
        Numbers that one image of that size leaves in memory for the backward pass, with the parameters all trained.
    levels
        Every native level, shallow to deep.
    input_spec
        The input, for the weights of this name.
    prefix_tokens
        How many tokens a transformer gives beside its maps, by kind (``"class"``, ``"distillation"``, ``"register"``)
        and in order; empty if there are none.
    size_divisor
        Height and width are padded to a multiple of this. A fixed-size backbone is built for a multiple of this;
        ``None`` if it cannot be built for another size.
    exportable
        Whether torch.export can export it at a fixed size.
    license
        License of the weights of this name, as published; ``None`` if it is not stated, or there are no weights.
    hub_id
        Repository of the weights of this name; ``None`` if there is none.
    ungated
        The name of the same weights without a gate, if those of `hub_id` are given only to who accepts their license
        and logs in; ``None`` if everyone gets them.
    accuracy
        Published for the weights of this name with their classifier, by size; empty if it is not.
    throughput
        Published for the architecture with its classifier, by size; empty if it is not.
    used_by
        Published methods that were built on this architecture, as far as is known.
    pretrained_tags
        Names of the published weights, the default ones first. Each can be used as a model name.
    """

    name: str
    source: str
    family: str
    params: int
    macs: int
    activations: int
    levels: tuple[FeatureLevel, ...]
    input_spec: InputSpec
    prefix_tokens: dict[str, int]
    size_divisor: int | None
    exportable: bool
    license: str | None
    hub_id: str | None
    ungated: str | None
    accuracy: tuple[Accuracy, ...]
    throughput: tuple[Throughput, ...]
    used_by: tuple[Use, ...]
    pretrained_tags: tuple[str, ...]

    @property
    def commercial(self) -> bool:
        """Whether `license` allows commercial use and asks for no more than naming the authors."""
        return self.license in COMMERCIAL

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
        """Height and width in pixels that the weights of this name were trained for."""
        return self.input_spec.size

    @property
    def min_size(self) -> int:
        """Smallest height and width in pixels; if the size is fixed, the smaller side of `input_size`."""
        return self.input_spec.min_size

    @property
    def fixed_size(self) -> bool:
        """Whether the backbone, with all its levels, accepts only the size it was built for."""
        return self.input_spec.fixed_size

    @property
    def any_size(self) -> bool:
        """Whether it accepts images of any size from `min_size` up."""
        return not self.fixed_size

    @property
    def exact(self) -> bool:
        """Whether every level has the cells of the architecture's grid; if not, some are resampled."""
        return all(level.exact for level in self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and properties as plain values."""
        names = ("commercial", "channels", "strides", "input_size", "min_size", "fixed_size", "any_size", "exact")
        values = asdict(self) | {name: getattr(self, name) for name in names}
        return values | {"input_spec": self.input_spec.to_dict()}
