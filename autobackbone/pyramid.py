"""Pyramids: maps at strides that an architecture does not have."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from autobackbone.levels import NativeLevel, ceil_div, cells, doublings, round_up


def resample(x: Tensor, stride: int, new_stride: int, size: tuple[int, int]) -> Tensor:
    """Resample a map from one stride to another, with every cell at its place in the image.

    Upsampling is bilinear. In downsampling, each new cell averages the area it covers. Cell ``i`` of a map at stride
    ``s`` covers the pixels from ``i * s`` to ``(i + 1) * s`` for any image size, so boxes and anchors stay in place.
    Resizing the whole map would shift cells by up to a stride.

    Parameters
    ----------
    x
        ``(B, C, h, w)``, floating point.
    stride, new_stride
        Pixels per cell of `x` and of the result.
    size
        ``(height, width)`` of the result in cells. Beyond the edge of `x`, its last cells are repeated.

    Returns
    -------
    Tensor
        ``(B, C, *size)``.
    """
    block = ceil_div(new_stride, stride)  # samples per side of a new cell; none is wider than a cell of x
    ratio = Fraction(stride * block, new_stride)
    covering = [ceil_div(s * new_stride, stride) for s in size]
    # With multiples of the denominator, the ratio of sizes is exact.
    least = [_larger(c, n) for c, n in zip(covering, x.shape[-2:], strict=True)]
    height, width = (round_up(n, ratio.denominator) for n in least)
    x = extend(x, (height, width))
    if ratio != 1:
        finer = [n // ratio.denominator * ratio.numerator for n in (height, width)]
        x = F.interpolate(x, size=finer, mode="bilinear", align_corners=False)
    x = crop(x, (size[0] * block, size[1] * block))
    return F.avg_pool2d(x, block) if block > 1 else x


def fit(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map bilinearly to `size`, for maps whose grid does not line up with the contract's."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def pad(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad images with zeros at the bottom and right, up to `size`."""
    height, width = x.shape[-2:]
    if _is_known(size[0] == height) and _is_known(size[1] == width):
        return x
    return F.pad(x, (0, size[1] - width, 0, size[0] - height))


def extend(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the edge of a map at the bottom and right, up to `size`."""
    height, width = x.shape[-2:]
    if _is_known(size[0] == height) and _is_known(size[1] == width):
        return x
    if torch.compiler.is_exporting():
        return _cells_up_to(x, size)
    return F.pad(x, (0, size[1] - width, 0, size[0] - height), mode="replicate")


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the first `size` cells of a map."""
    height, width = x.shape[-2:]
    if _is_known(size[0] == height) and _is_known(size[1] == width):
        return x
    if torch.compiler.is_exporting():
        return _cells_up_to(x, size)
    return x[..., : size[0], : size[1]]


def _is_known(condition: Any) -> bool:
    """Whether a condition on sizes holds: for all sizes of the graph under compilation, or now in eager mode."""
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(condition)
    return not torch.jit.is_tracing() and bool(condition)  # type: ignore[attr-defined, no-untyped-call]


def _larger(a: Any, b: Any) -> Any:
    """Return the larger of two sizes: integers, symbols in a dynamic graph, or tensors under torch.jit.trace."""
    if isinstance(a, Tensor):
        return torch.maximum(a, b)
    if _is_known(a >= b):  # torch before 2.12 breaks the graph at a sym_max of two integers
        return a
    return b if _is_known(b >= a) else torch.sym_max(a, b)


def _cells_up_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the first `size` cells of a map, with its last cells repeated beyond the edge.

    Cells are selected by index, so an exported program works for every size.
    """
    for dim, n in zip((-2, -1), size, strict=True):
        x = x.index_select(dim, torch.arange(n, device=x.device).clamp(max=x.shape[dim] - 1))
    return x


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid: maps at several strides, each made from one native map by a branch.

    Upsampling: 2x2 transposed convolutions that halve the channels, with norm and GELU between them. Downsampling: max
    pooling. Then a 1x1 and a 3x3 convolution to `channels`, each with layer norm over the channels. Levels coarser than
    twice the native stride take every second cell of the next finer level. If the ratio of strides is not a power of
    two (patches of 14 pixels), the native map is first resampled to the nearest stride for which it is.

    Y. Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", 2022,
    https://arxiv.org/abs/2203.16527; the operators are those of detectron2's ``SimpleFeaturePyramid``.

    Parameters
    ----------
    origins
        The native level from which each stride is made.
    channels
        Channels of every map.
    """

    def __init__(self, origins: dict[int, NativeLevel], channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        self._plans: dict[int, tuple[int, int, int]] = {}  # stride: native stride, stride to resample to, branch
        for stride, native in origins.items():
            times = doublings(native.stride, stride)
            branch = stride >> max(-1 - times, 0)
            times = max(times, -1)
            self._plans[stride] = (native.stride, branch << times if times > 0 else branch >> -times, branch)
            self.branches[str(branch)] = _branch(native.channels, channels, times)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the map of each stride.

        Parameters
        ----------
        maps
            The native map of each stride, ``(B, C, ceil(H / native), ceil(W / native))``.
        size
            ``(H, W)`` of the images in pixels.

        Returns
        -------
        list of Tensor
            One ``(B, channels, ceil(H / stride), ceil(W / stride))`` per stride.
        """
        starts: dict[tuple[int, int], Tensor] = {}
        branch_maps: dict[int, Tensor] = {}
        result = []
        for x, (stride, (native, base, branch)) in zip(maps, self._plans.items(), strict=True):
            if branch not in branch_maps:
                if native != base and (native, base) not in starts:
                    starts[native, base] = resample(x, native, base, cells(size, base))
                y = self.branches[str(branch)](starts.get((native, base), x))
                branch_maps[branch] = crop(y, cells(size, branch))
            every = stride // branch
            result.append(branch_maps[branch][..., ::every, ::every] if every > 1 else branch_maps[branch])
        return result


def _branch(in_channels: int, out_channels: int, times: int) -> nn.Sequential:
    """Return a branch that doubles a map `times` times, or halves it for -1, and projects it to `out_channels`."""
    layers: list[nn.Module] = []
    width = in_channels
    for i in range(times):
        if i > 0:
            layers += [LayerNorm2d(width, eps=1e-6), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width //= 2
    if times < 0:
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    for before, kernel in ((width, 1), (out_channels, 3)):
        layers.append(nn.Conv2d(before, out_channels, kernel, padding=kernel // 2, bias=False))
        layers.append(LayerNorm2d(out_channels, eps=1e-6))
    return nn.Sequential(*layers)
