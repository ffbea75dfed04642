"""Pyramids: maps at strides that an architecture does not have."""

from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor

from autobackbone.levels import ceil_div, round_up


def resample(x: Tensor, stride: int, new_stride: int, size: tuple[int, int]) -> Tensor:
    """Resample a map from one stride to another, keeping every cell over its own pixels.

    Up: bilinear. Down: each new cell averages what it covers. Cell ``i`` of a map at stride ``s`` covers the pixels
    from ``i * s`` to ``(i + 1) * s``, whatever the size of the image, so boxes and anchors stay in place; resizing the
    map as a whole would shift cells by up to a stride.

    Parameters
    ----------
    x
        ``(B, C, h, w)``, floating point.
    stride, new_stride
        Pixels per cell of `x` and of the result.
    size
        ``(height, width)`` of the result in cells. Where it reaches past `x`, the edge is repeated.

    Returns
    -------
    Tensor
        ``(B, C, *size)``.
    """
    block = ceil_div(new_stride, stride)  # samples per new cell and side, so that none is wider than a cell of x
    ratio = Fraction(stride * block, new_stride)
    covering = [ceil_div(s * new_stride, stride) for s in size]
    # Whole multiples of the denominator make the ratio of sizes the exact one.
    missing = [max(round_up(max(c, n), ratio.denominator) - n, 0) for c, n in zip(covering, x.shape[-2:], strict=True)]
    if any(missing):
        x = F.pad(x, (0, missing[1], 0, missing[0]), mode="replicate")
    if ratio != 1:
        finer = [n // ratio.denominator * ratio.numerator for n in x.shape[-2:]]
        x = F.interpolate(x, size=finer, mode="bilinear", align_corners=False)
    x = x[..., : size[0] * block, : size[1] * block]
    return F.avg_pool2d(x, block) if block > 1 else x


def fit(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a map whose cells do not line up with the contract's to `size`, bilinearly."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
