"""FPN over any backbone, in the form that torchvision's detectors take."""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from autobackbone.anchors import anchor_generator, roi_align
from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, WeightsCorruptedError, WeightsMismatchError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel, ceil_div
from autobackbone.pretrained import Pretrained
from autobackbone.values import MAX_CHANNELS, as_integer, path_of, shown
from autobackbone.weights.files import find_files, read_checkpoint
from autobackbone.weights.loading import find_part, load_part
from autobackbone.weights.matching import Rules
from autobackbone.weights.model_card import model_card
from autobackbone.weights.saved_files import CONFIG_FILE, write
from autobackbone.weights.saving import check_state, read_config

if TYPE_CHECKING:
    from autobackbone.weights.report import WeightsReport


class FeaturePyramid(Pretrained, nn.Module):
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
    levels : tuple of FeatureLevel
        Name, channels, stride and exactness of every map, and the native level that it is made of.
    weights_report : WeightsReport or None
        What `from_pretrained` or `load_weights` loaded; ``None`` if neither did.

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
        width = as_integer(backbone.channels[0] if out_channels is None else out_channels, 1, MAX_CHANNELS)
        if width is None:
            given = shown(out_channels)
            msg = f"out_channels must be a positive integer, or None for no FPN, got {given}; at most {MAX_CHANNELS}."
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
        self.out_channels = width
        self.weights_report: WeightsReport | None = None
        self._made_with = {"out_channels": out_channels, "extra_blocks": extra_blocks}
        self._order = sorted(range(len(backbone.levels)), key=backbone.strides.__getitem__)
        levels = [backbone.levels[i] for i in self._order]
        self._own = tuple(_name(level.stride) if level.stride.bit_count() == 1 else level.name for level in levels)
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
        self.levels = self._describe(levels, bare=out_channels is None)
        path = next(name for name, module in backbone.named_modules() if module is backbone.network)
        self.checkpoint_rules = Rules(converters=(partial(_from_torchvision, f"backbone.{path}."),))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, by name."""
        return (self.out_channels,) * len(self.names)

    @property
    def input_spec(self) -> InputSpec:
        """What the backbone takes as input."""
        return self.backbone.input_spec

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
        pyramid = self.fpn(OrderedDict((_key(i), maps[i]) for i in self._order))
        return OrderedDict(zip(self.names, pyramid.values(), strict=True))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass instead of keeping them.

        Raises
        ------
        UnsupportedError
            If the architecture cannot.
        """
        self.backbone.set_grad_checkpointing(enable)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a pyramid that `save_pretrained` or `push_to_hub` saved.

        Parameters
        ----------
        source
            A folder, or ``owner/repo`` on the Hub.
        revision
            Branch, tag or commit of the repository; ``None`` for its default.
        cache_dir
            Instead of the Hub's own cache.
        **overrides
            Fields of `FeatureBackboneConfig` that take precedence, as long as the strides stay what they were.

        Returns
        -------
        FeaturePyramid
            In training mode, on the default device, in the default dtype.

        Raises
        ------
        WeightsNotFoundError
            If there is no such folder or repository.
        WeightsCorruptedError
            If it holds no saved pyramid, a damaged one, or files of two.
        WeightsMismatchError
            If the overrides ask for what was not saved.
        ConfigError
            If an override cannot be honored, or the saved config sets more than an architecture and its arguments.
        """
        place = None if cache_dir is None else path_of(cache_dir, "cache_dir")
        source = path_of(source, "source")
        saved, weights = read_config(
            source, revision=revision, cache_dir=place, with_weights="weights" not in overrides
        )
        if saved.fpn is None:
            msg = (
                f"{source!r} holds a backbone without an FPN; load it with FeatureBackbone.from_pretrained() and give "
                "it to FeaturePyramid()."
            )
            raise WeightsCorruptedError(msg)
        backbone = FeatureBackbone.from_saved(saved, {"weights": weights, **overrides}, place)
        pyramid = cls._remade(backbone, saved.fpn, source)
        report, origin = backbone.weights_report, backbone.config.weights
        if report is None or origin is None:  # weights=None: it is to be random
            return pyramid
        content = read_checkpoint(find_files(origin, cache_dir=place), origin)
        part = find_part(pyramid.fpn, "fpn", content, origin, entry=report.entry, prefix=report.prefix)
        pyramid.weights_report = load_part(pyramid.fpn, "fpn", part, report)
        if pyramid.fpn.state_dict() and not part:
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
        count = len(self._own)
        return roi_align(self._own, self.strides[:count], output_size, sampling_ratio, canonical_scale, canonical_level)

    def write_pretrained(self, folder: Path, title: str) -> None:
        """Write backbone and FPN to a folder, which is also one of the backbone's; see `save_pretrained`."""
        if not isinstance(self._made_with["extra_blocks"], str | None):
            kind = type(self._made_with["extra_blocks"]).__name__
            msg = f"extra_blocks: a file cannot name the {kind}; save state_dict(), and make the pyramid by hand again."
            raise ConfigError(msg)
        made_with = self._made_with | {"strides": self.backbone.strides}
        values, backbone = self.backbone.describe(fpn=made_with)
        with torch.device("meta"):
            twin = self._remade(backbone, made_with, "What is to be saved")
        state = self.state_dict()
        check_state(state, twin.state_dict())
        spec, name = self.input_spec, values["backbone"]["model_name"]
        card = model_card("FeaturePyramid", title, name, self.levels, spec, self.backbone.license)
        write(folder, values, state, card)

    @classmethod
    def _remade(cls, backbone: FeatureBackbone, made_with: Mapping[str, Any], where: str) -> Self:
        """Make a saved pyramid again."""
        arguments = dict(made_with)
        strides = arguments.pop("strides", None)
        fault = f"The {CONFIG_FILE} of {where!r} is not that of a saved pyramid: fpn={shown(dict(made_with))}"
        if not isinstance(strides, list | tuple) or arguments.keys() != {"out_channels", "extra_blocks"}:
            raise WeightsCorruptedError(fault)
        if tuple(strides) != backbone.strides:
            msg = f"A pyramid saved with strides {tuple(strides)} cannot be loaded with {backbone.strides}."
            raise ConfigError(msg)
        try:
            return cls(backbone, **arguments)
        except ConfigError as err:
            msg = f"{fault}: {err}"
            raise WeightsCorruptedError(msg) from err

    def _describe(self, levels: list[FeatureLevel], *, bare: bool) -> tuple[FeatureLevel, ...]:
        """Return the levels of the pyramid, made of the backbone's, which are sorted."""
        described = []
        for i, (name, stride) in enumerate(zip(self.names, self.strides, strict=True)):
            origin = levels[min(i, len(levels) - 1)]
            is_extra = i >= len(levels)
            module = "fpn.extra_blocks" if is_extra else f"fpn.layer_blocks.{i}"
            made_by = "fpn"
            if bare and not is_extra:
                module, made_by = origin.module, origin.made_by
            described.append(FeatureLevel(name, origin.index, self.out_channels, stride, module, origin.exact, made_by))
        return tuple(described)

    def _added_strides(self, strides: list[int]) -> list[int]:
        """Return the strides of the extra levels, from the shapes that they have."""
        cells = 64
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            maps = OrderedDict[str, Tensor]()
            like = next(self.backbone.parameters())
            for i, stride in zip(self._order, strides, strict=True):
                size = ceil_div(cells * strides[-1], stride)
                maps[_key(i)] = like.new_empty(2, self.backbone.channels[i], size, size)
            try:
                with _outputs(self.fpn.extra_blocks) as outputs:
                    sizes = [y.shape[-1] for y in self.fpn(maps).values()]
            except (RuntimeError, TypeError, ValueError) as err:
                kind = type(self.fpn.extra_blocks).__name__
                msg = f"extra_blocks: the {kind} does not take these maps, of {self.out_channels} channels: {err}"
                raise ConfigError(msg) from err
        if len(outputs) > len(sizes):
            kind = type(self.fpn.extra_blocks).__name__
            msg = f"extra_blocks: the {kind} calls two of its levels by one name; each needs a name of its own."
            raise ConfigError(msg)
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


def _key(index: int) -> str:
    """Return what the FPN calls a level: extra blocks have names of their own, such as p6, which must not be these."""
    return f"backbone.{index}"


@contextmanager
def _outputs(block: Any) -> Iterator[list[Tensor]]:
    """Collect the maps that a block returns, those under the same name as well."""
    outputs: list[Tensor] = []
    if block is None:
        yield outputs
        return
    handle = block.register_forward_hook(lambda _module, _args, result: outputs.extend(result[0]))
    try:
        yield outputs
    finally:
        handle.remove()


def _name(stride: int) -> str:
    return f"p{int(math.log2(stride))}" if stride.bit_count() == 1 else f"s{stride}"


def _extra_block(extra_blocks: str | ExtraFPNBlock | None, channels: int) -> ExtraFPNBlock | None:
    if extra_blocks is None or isinstance(extra_blocks, ExtraFPNBlock):
        return extra_blocks
    name = extra_blocks if isinstance(extra_blocks, str) else None
    if name == "pool":
        return LastLevelMaxPool()
    if name == "p6p7":
        return LastLevelP6P7(channels, channels)
    msg = f"extra_blocks must be 'pool', 'p6p7', a torchvision ExtraFPNBlock, or None, got {shown(extra_blocks)}."
    raise ConfigError(msg)


def _from_torchvision(network: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor] | None:  # noqa: ARG001
    """Rename the state dict of a torchvision FPN backbone: its body's names are the network's in ours."""
    if not any(key.startswith("body.") for key in state) or not any(key.startswith("fpn.") for key in state):
        return None
    renamed = {re.sub(r"^body\.", network, key): value for key, value in state.items()}
    # Before torchvision 0.13, convolutions were not wrapped; the published files are from then.
    return {re.sub(r"^(fpn\.\w+_blocks\.\d+)\.(\w+)$", r"\1.0.\2", key): value for key, value in renamed.items()}
