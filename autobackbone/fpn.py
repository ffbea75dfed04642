"""FPN over any backbone, and what torchvision's detectors need to know of it."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError
from autobackbone.levels import ceil_div


class FeaturePyramid(nn.Module):
    """A feature pyramid network over a backbone: torchvision's, with names and strides.

    torchvision's detectors take it as their backbone. T.-Y. Lin et al., "Feature Pyramid Networks for Object
    Detection", 2017, https://arxiv.org/abs/1612.03144.

    Parameters
    ----------
    backbone
        Its levels, of any strides, in any order.
    out_channels
        Channels of every map; ``None`` leaves out the FPN, and gives the backbone's maps as they are, by name. They
        must have as many channels as each other: those of a simple pyramid do, and ViTDet puts no FPN on it.
    extra_blocks
        Coarser levels: ``"pool"``, every second cell of the coarsest (Faster R-CNN); ``"p6p7"``, two strided
        convolutions on it (RetinaNet, FCOS); a torchvision ``ExtraFPNBlock``, whose levels halve; ``None``: none.

    Attributes
    ----------
    names : tuple of str
        ``p2`` for stride 4, ``p3`` for 8 ..., fine to coarse, extra levels included.
    strides : tuple of int
        Pixels per cell, by name.
    out_channels : int
        Channels of every map.

    Raises
    ------
    ConfigError
        If two levels have the same stride, if channels differ and there is to be no FPN, or if an argument is none of
        these.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import FeaturePyramid, create_feature_backbone
    >>> fpn = FeaturePyramid(create_feature_backbone("resnet18", pretrained=False), extra_blocks="p6p7")
    >>> {name: tuple(y.shape[1:]) for name, y in fpn(torch.rand(1, 3, 333, 257)).items()}
    {'p3': (256, 42, 33), 'p4': (256, 21, 17), 'p5': (256, 11, 9), 'p6': (256, 6, 5), 'p7': (256, 3, 3)}
    """

    def __init__(
        self, backbone: FeatureBackbone, out_channels: int | None = 256, extra_blocks: str | ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        given: Any = backbone
        if not isinstance(given, FeatureBackbone):
            msg = (
                f"FeaturePyramid takes a FeatureBackbone as create_feature_backbone() makes it, got "
                f"{type(given).__name__}; compile the pyramid rather than the backbone."
            )
            raise ConfigError(msg)
        width: Any = backbone.channels[0] if out_channels is None else out_channels
        if isinstance(width, bool) or not isinstance(width, Integral) or width < 1:
            msg = f"out_channels must be a positive integer, or None for no FPN, got {out_channels!r}."
            raise ConfigError(msg)
        if out_channels is None and len(set(backbone.channels)) > 1:
            msg = (
                f"out_channels=None leaves out the FPN, which makes channels equal, and these are {backbone.channels}; "
                "give a number, or take pyramid='simple'."
            )
            raise ConfigError(msg)
        if len(set(backbone.strides)) < len(backbone.strides):
            msg = (
                f"FPN needs levels of different strides, and these have {backbone.strides}; ask for levels by stride, "
                "as out_strides=(4, 8, 16, 32) does."
            )
            raise ConfigError(msg)
        self.backbone = backbone
        self.out_channels = width = int(width)
        self._order = sorted(range(len(backbone.levels)), key=backbone.strides.__getitem__)
        levels = [backbone.levels[i] for i in self._order]
        self._own = tuple(f"p{level.name[1:]}" if level.name[0] == "c" else level.name for level in levels)
        like = next(backbone.parameters())
        with torch.inference_mode(mode=False), torch.device(like.device):  # it can be trained, where the backbone is
            extra = _extra_block(extra_blocks, width)
            if out_channels is None:
                self.fpn: nn.Module = _NoFPN(extra)
            else:
                self.fpn = FeaturePyramidNetwork([level.channels for level in levels], width, extra)
            self.fpn.to(device=like.device, dtype=like.dtype)
        added = self._added_strides([level.stride for level in levels])
        self.strides = (*(level.stride for level in levels), *added)
        self.names = (*self._own, *map(_name, added))

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Compute the pyramid.

        Parameters
        ----------
        x
            ``(B, C, H, W)`` images, as the backbone takes them.

        Returns
        -------
        OrderedDict of str to Tensor
            By name, fine to coarse, ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.
        """
        maps = self.backbone(x)
        found = self.fpn(OrderedDict((name, maps[i]) for name, i in zip(self._own, self._order, strict=True)))
        return OrderedDict(zip(self.names, found.values(), strict=True))

    def anchor_generator(
        self, scales: Sequence[float] = (8,), aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> AnchorGenerator:
        """Return torchvision's anchor generator for the strides of this pyramid.

        They are centred on ``i * stride``, as torchvision centres anchors, with the true stride whatever the size of
        the image: torchvision's own generator divides the size of the images by that of the map, and rounds.

        Parameters
        ----------
        scales
            Sides of the square anchors in strides: ``(8,)`` is Faster R-CNN's, ``(4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 /
            3))`` RetinaNet's, and ``(1,)``, with ``aspect_ratios=(1.0,)``, FCOS's.
        aspect_ratios
            Height by width.

        Raises
        ------
        ConfigError
            If these are no sequences of numbers above 0.
        """
        for name, values in (("scales", scales), ("aspect_ratios", aspect_ratios)):
            given: Any = values
            if not isinstance(given, Sequence) or isinstance(given, str) or not given or not all(v > 0 for v in given):
                msg = f"{name} must be a sequence of numbers above 0, such as (8,), got {values!r}."
                raise ConfigError(msg)
        sizes = tuple(tuple(scale * stride for scale in scales) for stride in self.strides)
        return _Anchors(sizes, (tuple(aspect_ratios),) * len(sizes), self.strides)

    def roi_align(self, output_size: int | tuple[int, int], sampling_ratio: int = 2) -> MultiScaleRoIAlign:
        """Return torchvision's RoI pooling over the backbone's own levels.

        Parameters
        ----------
        output_size
            Cells of each region: 7 for boxes, 14 for masks.
        sampling_ratio
            Points sampled in each cell and direction.

        Raises
        ------
        ConfigError
            If the strides are not powers of two, each twice the one before, by which regions are given to levels.
        """
        strides = self.strides[: len(self._own)]
        if strides[0].bit_count() != 1 or any(b != 2 * a for a, b in pairwise(strides)):
            msg = (
                f"RoI pooling gives regions to levels by powers of two, and the strides are {strides}; ask the "
                "backbone for strides such as (4, 8, 16, 32)."
            )
            raise ConfigError(msg)
        pooling = MultiScaleRoIAlign(list(self._own), output_size, sampling_ratio)
        pooling.scales = [1 / stride for stride in strides]
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        pooling.map_levels = initLevelMapper(first, last, pooling.canonical_scale, pooling.canonical_level)
        return pooling

    def _added_strides(self, strides: list[int]) -> list[int]:
        """Return the strides of the extra levels, from the shapes that they have."""
        cells = 64
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            maps = OrderedDict[str, Tensor]()
            like = next(self.backbone.parameters())
            for name, i, stride in zip(self._own, self._order, strides, strict=True):
                size = ceil_div(cells * strides[-1], stride)
                maps[name] = like.new_empty(2, self.backbone.channels[i], size, size)
            try:
                sizes = [y.shape[-1] for y in self.fpn(maps).values()]
            except (RuntimeError, TypeError, ValueError) as err:
                kind = type(self.fpn.extra_blocks).__name__
                msg = f"extra_blocks: the {kind} does not take these maps, of {self.out_channels} channels: {err}"
                raise ConfigError(msg) from err
        return [strides[-1] * cells // size for size in sizes[len(strides) :]]


class _NoFPN(nn.Module):
    """Only the extra levels of an FPN."""

    def __init__(self, extra_blocks: ExtraFPNBlock | None) -> None:
        super().__init__()
        self.extra_blocks = extra_blocks

    def forward(self, maps: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
        """Return the maps and the extra ones."""
        if self.extra_blocks is None:
            return maps
        values = list(maps.values())
        results, names = self.extra_blocks(list(values), values, list(maps))
        return OrderedDict(zip(names, results, strict=True))


class _Anchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors at known strides."""

    def __init__(self, sizes: Any, aspect_ratios: Any, strides: tuple[int, ...]) -> None:
        super().__init__(sizes, aspect_ratios)
        self._strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, ``(N, 4)``, as x1, y1, x2, y2 in pixels."""
        like = feature_maps[0]
        self.set_cell_anchors(like.dtype, like.device)
        steps = [[torch.tensor(stride, device=like.device)] * 2 for stride in self._strides]
        anchors = torch.cat(self.grid_anchors([list(y.shape[-2:]) for y in feature_maps], steps))
        return [anchors for _ in image_list.image_sizes]


def _name(stride: int) -> str:
    return f"p{int(math.log2(stride))}" if stride.bit_count() == 1 else f"s{stride}"


def _extra_block(extra_blocks: str | ExtraFPNBlock | None, channels: int) -> ExtraFPNBlock | None:
    if extra_blocks is None or isinstance(extra_blocks, ExtraFPNBlock):
        return extra_blocks
    if extra_blocks == "pool":
        return LastLevelMaxPool()
    if extra_blocks == "p6p7":
        return LastLevelP6P7(channels, channels)
    msg = f"extra_blocks must be 'pool', 'p6p7', a torchvision ExtraFPNBlock, or None, got {extra_blocks!r}."
    raise ConfigError(msg)
