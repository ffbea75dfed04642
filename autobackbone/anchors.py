"""Anchors and RoI pooling for torchvision's detectors, from known strides."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from autobackbone.errors import ConfigError
from autobackbone.values import MAX_COUNT, as_integer, as_real, as_size, shown

# The published settings of torchvision's detectors: sides in strides, truncated to whole pixels, and aspect ratios.
_PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "faster_rcnn": ((8,), (0.5, 1.0, 2.0)),
    "retinanet": ((4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), (0.5, 1.0, 2.0)),
    "fcos": ((1,), (1.0,)),
}


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchor generator with given strides; torchvision infers them from sizes.

    Parameters
    ----------
    sizes
        Sides of the anchors of each level, in pixels.
    aspect_ratios
        Height by width of the anchors of each level.
    strides
        Stride of each level, in pixels.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]], strides: Sequence[int]
    ) -> None:
        super().__init__(tuple(map(tuple, sizes)), tuple(map(tuple, aspect_ratios)))
        self._strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, ``(N, 4)``, as x1, y1, x2, y2 in pixels."""
        like = feature_maps[0]
        self.set_cell_anchors(like.dtype, like.device)
        steps = [[torch.tensor(stride, device=like.device)] * 2 for stride in self._strides]
        anchors = torch.cat(self.grid_anchors([list(y.shape[-2:]) for y in feature_maps], steps))
        return [anchors for _ in image_list.image_sizes]


def anchor_generator(
    strides: Sequence[int],
    scales: str | Sequence[float] | None = None,
    aspect_ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
    sizes: Sequence[Sequence[float]] | None = None,
) -> Anchors:
    """Return an anchor generator for levels at `strides`; see `FeaturePyramid.anchor_generator`."""
    ratios = _PUBLISHED["faster_rcnn"][1]
    if sizes is not None:
        if scales is not None:
            msg = f"scales={shown(scales)} and sizes={shown(sizes)} both say how large anchors are; give one of them."
            raise ConfigError(msg)
        by_level = _by_level("sizes", sizes, len(strides))
    elif isinstance(scales, str):
        if scales not in _PUBLISHED:
            msg = f"scales={shown(scales)} is none of {', '.join(map(repr, _PUBLISHED))}; name one, or give numbers."
            raise ConfigError(msg)
        published, ratios = _PUBLISHED[scales]
        by_level = [[int(stride * scale) for scale in published] for stride in strides]
    else:
        multiples = _numbers("scales", (8,) if scales is None else scales, " Anchors by level go into sizes.")
        by_level = [[scale * stride for scale in multiples] for stride in strides]
    if aspect_ratios is None:
        aspect_ratios = ratios
    if _is_sequence(aspect_ratios) and any(map(_is_sequence, aspect_ratios)):
        ratios_by_level = _by_level("aspect_ratios", aspect_ratios, len(strides))
    else:
        ratios_by_level = [_numbers("aspect_ratios", aspect_ratios)] * len(strides)
    counts = [len(a) * len(b) for a, b in zip(by_level, ratios_by_level, strict=True)]
    if len(set(counts)) > 1:
        msg = f"The levels have {counts} anchors per cell: a detector's head makes as many at every level."
        raise ConfigError(msg)
    return Anchors(by_level, ratios_by_level, strides)


def roi_align(
    names: Sequence[str],
    strides: Sequence[int],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 2,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> MultiScaleRoIAlign:
    """Return RoI pooling over the levels `names` at `strides`; see `FeaturePyramid.roi_align`."""
    size = as_size(output_size)
    ratio = as_integer(sampling_ratio, -1, MAX_COUNT)
    scale = as_real(canonical_scale)
    level = as_integer(canonical_level, 0, 16)
    for name, value, is_good, expected in (
        ("output_size", output_size, size, "a positive integer, or two of them, such as 7 or (7, 7)"),
        ("sampling_ratio", sampling_ratio, ratio is not None, "a positive integer, or 0 for as many points as fit"),
        ("canonical_scale", canonical_scale, scale is not None and scale > 0, "a number of pixels above 0"),
        ("canonical_level", canonical_level, level is not None, "the base 2 logarithm of a stride, such as 4 for 16"),
    ):
        if not is_good:
            msg = f"{name} must be {expected}, got {shown(value)}."
            raise ConfigError(msg)
    if strides[0].bit_count() != 1 or any(b != 2 * a for a, b in pairwise(strides)):
        msg = (
            f"RoI pooling gives regions to levels by powers of two, and the strides are {tuple(strides)}; ask the "
            "backbone for strides such as (4, 8, 16, 32)."
        )
        raise ConfigError(msg)
    pooling = MultiScaleRoIAlign(
        list(names),
        size,
        ratio,
        canonical_scale=scale,
        canonical_level=level,
    )
    pooling.scales = [1 / stride for stride in strides]
    first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    pooling.map_levels = initLevelMapper(first, last, pooling.canonical_scale, pooling.canonical_level)
    return pooling


def _numbers(name: str, values: Any, hint: str = "") -> list[float]:
    numbers = [number for value in values if (number := as_real(value))] if _is_sequence(values) else []
    if not numbers or len(numbers) < len(values) or min(numbers) < 0:
        msg = f"{name} must be a sequence of numbers above 0, such as (8,), got {shown(values)}.{hint}"
        raise ConfigError(msg)
    return numbers


def _by_level(name: str, values: Any, count: int) -> list[list[float]]:
    if not _is_sequence(values) or len(values) != count or not all(map(_is_sequence, values)):
        msg = f"{name} must have a sequence of numbers for each of the {count} levels, got {shown(values)}."
        raise ConfigError(msg)
    return [_numbers(f"{name}[{i}]", each) for i, each in enumerate(values)]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
