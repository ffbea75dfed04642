"""FPN over any backbone, in the form that torchvision's detectors take."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from autobackbone.anchors import anchor_generator, roi_align
from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, WeightsCorruptedError, WeightsMismatchError
from autobackbone.fpn_layers import (
    describe_levels,
    extra_strides,
    from_torchvision,
    make_extra_levels,
    make_fpn,
    map_key,
)
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel
from autobackbone.pretrained import Pretrained
from autobackbone.unwrapping import path_to
from autobackbone.values import MAX_CHANNELS, as_integer, path_of, shown
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import load_part, match_part
from autobackbone.weights.model_card import model_card
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import CheckpointRules
from autobackbone.weights.saved_files import write
from autobackbone.weights.saving import Saved, check_state

_NO_FPN: Any = object()  # in the place of a number of channels: without_fpn() runs a subclass's __init__ too


class FeaturePyramid(Pretrained, nn.Module):
    """torchvision's feature pyramid network (FPN) over a backbone, with names and strides.

    torchvision's detectors take it as their backbone. T.-Y. Lin et al., "Feature Pyramid Networks for Object
    Detection", 2017, https://arxiv.org/abs/1612.03144.

    Parameters
    ----------
    backbone
        A backbone with levels of different strides, in any order.
    out_channels
        Channels of every map.
    extra_blocks
        Coarser levels. ``"pool"`` takes every second cell of the coarsest map (Faster R-CNN). ``"p6p7"`` puts two
        strided convolutions on it (RetinaNet, FCOS). A torchvision ``ExtraFPNBlock`` adds its own.

    Attributes
    ----------
    names : tuple of str
        ``p2`` for stride 4, ``p3`` for 8 ..., fine to coarse, extra levels included.
    strides : tuple of int
        Pixels per cell, by name.
    out_channels : int
        Channels of every map.
    levels : tuple of FeatureLevel
        Name, channels, stride and exactness of every map, and the native level that it is made from.

    Raises
    ------
    ConfigError
        If two levels have the same stride, or if an argument is not one of these.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import FeaturePyramid, create_feature_backbone
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> fpn = FeaturePyramid(backbone, extra_blocks="p6p7")
    >>> {name: tuple(y.shape[2:]) for name, y in fpn(torch.rand(1, 3, 333, 257)).items()}
    {'p3': (42, 33), 'p4': (21, 17), 'p5': (11, 9), 'p6': (6, 5), 'p7': (3, 3)}
    """

    size_divisibility = 0  # detectron2's word for: images need not be padded

    def __init__(
        self, backbone: FeatureBackbone, out_channels: int = 256, extra_blocks: str | ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        has_fpn = out_channels is not _NO_FPN
        value: Any = out_channels
        width = as_integer(value, 1, MAX_CHANNELS) if has_fpn else None
        if has_fpn and width is None:
            remedy = "; FeaturePyramid.without_fpn() leaves out the FPN" if value is None else ""
            msg = f"out_channels must be a positive integer, at most {MAX_CHANNELS}, got {shown(value)}{remedy}."
            raise ConfigError(msg)
        base: Any = backbone
        if not isinstance(base, FeatureBackbone):
            msg = (
                f"FeaturePyramid takes a FeatureBackbone as create_feature_backbone() makes it, got "
                f"{type(base).__name__}; compile the pyramid rather than the backbone."
            )
            raise ConfigError(msg)
        if not has_fpn and len(set(backbone.channels)) > 1:
            msg = (
                f"without_fpn() needs levels of equal channels, and these are {backbone.channels}; use "
                "FeaturePyramid(), whose FPN makes them equal, or pyramid='simple'."
            )
            raise ConfigError(msg)
        if len(set(backbone.strides)) < len(backbone.strides):
            msg = (
                f"FPN needs levels of different strides, and these have {backbone.strides}; ask for levels by stride, "
                "as out_strides=(4, 8, 16, 32) does."
            )
            raise ConfigError(msg)
        self.backbone = backbone
        self.out_channels = channels = width or backbone.channels[0]
        self._arguments = {"out_channels": width, "extra_blocks": extra_blocks}
        self._weights_report: WeightsReport | None = None
        self._fine_to_coarse = sorted(range(len(backbone.levels)), key=backbone.strides.__getitem__)
        levels = [backbone.levels[i] for i in self._fine_to_coarse]
        like = next(backbone.parameters())
        with torch.inference_mode(mode=False), torch.device(like.device):  # it can be trained, where the backbone is
            in_channels = [level.channels for level in levels]
            if has_fpn:
                self.fpn: nn.Module = make_fpn(in_channels, channels, extra_blocks)
            else:
                self.fpn = make_extra_levels(channels, extra_blocks)
            self.fpn.to(device=like.device, dtype=like.dtype)
        strides = [level.stride for level in levels]
        extra = extra_strides(self.fpn, strides, in_channels, channels, like)
        self.strides: tuple[int, ...] = (*strides, *extra)
        self._backbone_names = tuple(_name(lv.stride) if lv.stride.bit_count() == 1 else lv.name for lv in levels)
        self.names: tuple[str, ...] = (*self._backbone_names, *map(_name, extra))
        self.levels = describe_levels(self.names, self.strides, levels, width)
        path = f"backbone.{path_to(backbone, backbone.network)}."
        self._rules = CheckpointRules(converters=(partial(from_torchvision, path),))

    @classmethod
    def without_fpn(cls, backbone: FeatureBackbone, extra_blocks: str | ExtraFPNBlock | None = None) -> Self:
        """Return a pyramid of the backbone's own maps, by name, with extra levels but without an FPN.

        ViTDet puts no FPN on its simple pyramid.

        Parameters
        ----------
        backbone
            Its levels have equal channels, as those of a simple pyramid do.
        extra_blocks
            As of `FeaturePyramid`.

        Raises
        ------
        ConfigError
            If two levels have the same stride or different channels, or if an argument is none of these.
        """
        return cls(backbone, _NO_FPN, extra_blocks)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, by name."""
        return (self.out_channels,) * len(self.names)

    @property
    def input_spec(self) -> InputSpec:
        """What the backbone takes as input."""
        return self.backbone.input_spec

    @property
    def weights_report(self) -> WeightsReport | None:
        """What `from_pretrained` or `load_weights` loaded; ``None`` if neither did."""
        return self._weights_report

    @weights_report.setter
    def weights_report(self, report: WeightsReport | None) -> None:
        self._weights_report = report

    @property
    def checkpoint_target(self) -> tuple[nn.Module, CheckpointRules]:
        """The pyramid itself, and how checkpoints are matched to it."""
        return self, self._rules

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
        pyramid = self.fpn(OrderedDict((map_key(i), maps[i]) for i in self._fine_to_coarse))
        return OrderedDict(zip(self.names, pyramid.values(), strict=True))

    def output_shape(self) -> dict[str, FeatureLevel]:
        """Return the levels by name, each with ``channels`` and ``stride``, as detectron2's backbones do."""
        return {level.name: level for level in self.levels}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass instead of keeping them.

        Raises
        ------
        UnsupportedError
            If the architecture cannot.
        """
        self.backbone.set_grad_checkpointing(enable)

    @classmethod
    def from_saved(cls, saved: Saved, overrides: Mapping[str, Any], cache_dir: str | None = None) -> Self:
        """Create a saved pyramid again; `from_pretrained` lists the errors. The overrides name the weights."""
        if saved.fpn is None:
            msg = (
                f"{saved.where} is that of a backbone without an FPN; load it with FeatureBackbone.from_pretrained() "
                "and give it to FeaturePyramid()."
            )
            raise WeightsCorruptedError(msg)
        origin = overrides.get("weights")
        checkpoint = None if origin is None else Checkpoint.at(path_of(origin, "weights"), cache_dir)
        backbone = FeatureBackbone.from_saved(saved, overrides, cache_dir, checkpoint)
        pyramid = cls._recreate(backbone, saved.fpn, saved.where)
        report = backbone.weights_report
        if report is None or checkpoint is None:  # weights=None: it is to be random
            return pyramid
        values = match_part(pyramid.fpn, "fpn", checkpoint, entry=report.entry, prefix=report.prefix)
        pyramid.weights_report = load_part(pyramid.fpn, "fpn", values, report)
        if pyramid.fpn.state_dict() and not values:
            msg = f"The weights in {origin!r} are without those of the FPN."
            raise WeightsMismatchError(msg)
        return pyramid

    def anchor_generator(
        self,
        scales: str | Sequence[float] | None = None,
        aspect_ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
        *,
        sizes: Sequence[Sequence[float]] | None = None,
    ) -> AnchorGenerator:
        """Return torchvision's anchor generator for the strides of this pyramid.

        They are centered on ``i * stride``, as torchvision centers anchors, with the true stride whatever the size of
        the image: torchvision's own generator divides the size of the images by that of the map, and rounds.

        Parameters
        ----------
        scales
            Sides of the square anchors in strides: one sequence for all levels, ``(8,)`` if neither this nor `sizes` is
            given. Or the detector whose published anchors they are, its aspect ratios included: ``"faster_rcnn"``,
            ``"retinanet"`` (three octaves of 4 strides, truncated to whole pixels) or ``"fcos"``. At the strides that
            these are published with, they are torchvision's own.
        aspect_ratios
            Height by width: one sequence for all levels, or one for each; ``(0.5, 1.0, 2.0)`` unless `scales` names a
            detector.
        sizes
            Instead of `scales`, sides in pixels, a sequence for each level, as torchvision takes them:
            ``((32,), (64,), (128,), (256,), (512,))``.

        Raises
        ------
        ConfigError
            If these are no sequences of numbers above 0, are not as many as the levels, or make more anchors at one
            level than at another.
        """
        return anchor_generator(self.strides, scales, aspect_ratios, sizes)

    def roi_align(
        self,
        output_size: int | tuple[int, int],
        sampling_ratio: int = 2,
        *,
        canonical_scale: float = 224,
        canonical_level: int = 4,
    ) -> MultiScaleRoIAlign:
        """Return torchvision's RoI pooling over the backbone's own levels.

        Parameters
        ----------
        output_size
            Cells of each region: 7 for boxes, 14 for masks and keypoints.
        sampling_ratio
            Points sampled in each cell and direction; 0 for as many as fit.
        canonical_scale, canonical_level
            A region of ``canonical_scale`` pixels square is pooled from the level with stride ``2**canonical_level``,
            one of twice the side from the next; regions that are larger or smaller than there are levels for, from the
            last or first.

        Raises
        ------
        ConfigError
            If an argument is none of these, or the strides are not powers of two, each twice the one before, by which
            regions are given to levels.
        """
        names = self._backbone_names
        strides = self.strides[: len(names)]
        return roi_align(names, strides, output_size, sampling_ratio, canonical_scale, canonical_level)

    def write_pretrained(self, folder: Path, title: str) -> None:
        """Write backbone and FPN to a folder, which is also one of the backbone's; see `save_pretrained`."""
        if not isinstance(self._arguments["extra_blocks"], str | None):
            kind = type(self._arguments["extra_blocks"]).__name__
            msg = f"extra_blocks: a file cannot name the {kind}; save state_dict(), and make the pyramid by hand again."
            raise ConfigError(msg)
        arguments = self._arguments | {"strides": self.backbone.strides}
        values, backbone = self.backbone.describe(fpn=arguments)
        with torch.device("meta"):
            twin = self._recreate(backbone, arguments, "What is to be saved")
        state = self.state_dict()
        check_state(state, twin.state_dict())
        spec, name = self.input_spec, values["backbone"]["model_name"]
        card = model_card("FeaturePyramid", title, name, self.levels, spec, self.backbone.license)
        write(folder, values, state, card)

    @classmethod
    def _recreate(cls, backbone: FeatureBackbone, saved: Mapping[str, Any], where: str) -> Self:
        """Create a saved pyramid again, over its backbone."""
        arguments = dict(saved)
        strides = arguments.pop("strides", None)
        fault = f"{where} is not that of a saved pyramid: fpn={shown(dict(saved))}"
        if not isinstance(strides, list | tuple) or arguments.keys() != {"out_channels", "extra_blocks"}:
            raise WeightsCorruptedError(fault)
        if tuple(strides) != backbone.strides:
            msg = f"A pyramid saved with strides {tuple(strides)} cannot be loaded with {backbone.strides}."
            raise ConfigError(msg)
        try:
            if arguments["out_channels"] is None:
                return cls.without_fpn(backbone, arguments["extra_blocks"])
            return cls(backbone, **arguments)
        except ConfigError as err:
            msg = f"{fault}: {err}"
            raise WeightsCorruptedError(msg) from err


def _name(stride: int) -> str:
    return f"p{int(math.log2(stride))}" if stride.bit_count() == 1 else f"s{stride}"
