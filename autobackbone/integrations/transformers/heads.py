"""What a head of transformers must be told of its backbone, from the levels of the backbone."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from transformers import PreTrainedConfig

from autobackbone.create import create_feature_backbone
from autobackbone.errors import ConfigError
from autobackbone.integrations.transformers.config import AutobackboneConfig, backbone_config
from autobackbone.values import as_integer, as_integers, shown

if TYPE_CHECKING:
    from collections.abc import Callable

ConfigT = TypeVar("ConfigT", bound=PreTrainedConfig)
_STRIDES = (8, 16, 32)


def head_config(head: type[ConfigT], backbone: AutobackboneConfig | str, **fields: Any) -> ConfigT:
    """Return the config of a head, with all that it must be told of its backbone.

    What that is, is read from the fields that the class has: ``encoder_in_channels`` and ``feat_strides`` of RT-DETR
    and D-FINE, ``feature_strides`` of Mask2Former, ``strides`` of OneFormer, ``auxiliary_in_channels`` of UPerNet,
    ``hidden_size`` of ViTMatte, ``reassemble_hidden_size`` and ``patch_size`` of Depth Anything,
    ``backbone_featmap_shape`` of the hybrid DPT, ``num_channels``. The backbone gives its maps in the layout that the
    head reads.

    Parameters
    ----------
    head
        Class of the config: `RTDetrConfig`, `Mask2FormerConfig`, ...
    backbone
        As `backbone_config` makes it, or a model name: then the levels are those that the head needs, with published
        weights.
    **fields
        Fields of the head.

    Raises
    ------
    ConfigError
        If the head cannot be built on these levels, the backbone is none of this package, or a field contradicts its
        levels. No weights have been loaded then.

    Examples
    --------
    >>> from transformers import Mask2FormerConfig
    >>> from autobackbone.integrations.transformers import backbone_config, head_config
    >>> name = "swin_tiny_patch4_window7_224"
    >>> swin = backbone_config(name, pretrained=False, out_strides=(4, 8, 16, 32))
    >>> config = head_config(Mask2FormerConfig, swin, num_labels=3)
    >>> config.feature_strides, config.backbone_config.channels
    ([4, 8, 16, 32], [96, 192, 384, 768])
    """
    value: Any = head
    if not (isinstance(value, type) and issubclass(value, PreTrainedConfig) and "backbone_config" in _names(value)):
        msg = f"head must be the class of a config with a backbone_config, such as RTDetrConfig, got {shown(head)}."
        raise ConfigError(msg)
    if "backbone_config" in fields:
        msg = f"backbone_config is the second argument of head_config(), as in head_config({head.__name__}, backbone)."
        raise ConfigError(msg)
    kind = _kind(head, fields)
    if isinstance(backbone, str):
        backbone = kind.default_backbone(backbone, _Request(head, fields))
    value = backbone
    if not isinstance(value, AutobackboneConfig):
        msg = (
            f"backbone must be made by backbone_config(), or be a model name, got {type(value).__name__}; "
            "transformers takes configs of its own as backbone_config= without this function."
        )
        raise ConfigError(msg)
    backbone = backbone.with_layout(kind.layout)
    request = _Request(head, fields)
    settings: dict[str, Any] = {"num_channels": backbone.num_channels} | kind.settings(request, backbone)
    settings = {name: setting for name, setting in settings.items() if name in _names(head)}
    for name in settings.keys() & fields.keys():
        if _plain(fields[name]) != _plain(settings[name]):
            msg = (
                f"{name}={shown(fields[name])} contradicts the backbone, of which {head.__name__} is told {name}="
                f"{settings[name]}; leave it out, or ask backbone_config() for other levels."
            )
            raise ConfigError(msg)
    make: Any = head
    config: ConfigT = make(backbone_config=backbone, **(fields | settings))
    return config


class _Request(NamedTuple):
    """A class of configs, and the fields that are asked for."""

    head: Any
    fields: dict[str, Any]

    def get(self, name: str) -> Any:
        """Return a field that is asked for, or its default."""
        if name in self.fields:
            return self.fields[name]
        field = next(f for f in dataclasses.fields(self.head) if f.name == name)
        return field.default_factory() if callable(field.default_factory) else field.default

    def refuse(self, backbone: AutobackboneConfig, needs: str, remedy: str) -> ConfigError:
        """Return the error that a head needs other levels."""
        levels = ", ".join(f"{c}x1/{s}" for c, s in zip(backbone.channels, backbone.strides, strict=True))
        name = (backbone.backbone or {}).get("model_name")
        return ConfigError(f"{self.head.__name__} needs {needs}, and {name!r} gives {levels}; {remedy}.")


class _Kind(NamedTuple):
    """What heads with certain fields read of a backbone.

    Attributes
    ----------
    default_backbone
        From a name and a request to a backbone with the levels that are needed.
    settings
        From a request and a backbone to the fields that tell its levels.
    layout
        Of the maps.
    """

    default_backbone: Callable[[str, _Request], AutobackboneConfig]
    settings: Callable[[_Request, AutobackboneConfig], dict[str, Any]]
    layout: str = "maps"


def _kind(head: type[PreTrainedConfig], fields: dict[str, Any]) -> _Kind:
    """Read from the fields of a head what it takes."""
    names = _names(head)
    if fields.get("is_hybrid"):
        return _HYBRID
    return next((kind for name, kind in _BY_FIELD.items() if name in names), _OTHER)


def _rt_detr(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """RT-DETR and what is made from it: an FPN that doubles each map."""
    count, strides = len(request.get("decoder_in_channels")), backbone.strides
    doubling = all(b == 2 * a for a, b in pairwise(strides))
    if len(strides) != count or not doubling:
        needs = f"{count} levels (as many as decoder_in_channels), each at twice the stride of the one before"
        raise request.refuse(backbone, needs, "ask backbone_config() for out_strides=(8, 16, 32)")
    return {"encoder_in_channels": backbone.channels, "feat_strides": strides}


def _feat_strides(request: _Request) -> tuple[int, ...]:
    return as_integers(request.get("feat_strides")) or _STRIDES


def _mask(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """Mask2Former and OneFormer: three levels with attention, and a finer one for the masks."""
    needed = _from_common_stride(request)
    if tuple(backbone.strides) != needed:
        needs = f"the strides {needed}, from its common_stride on"
        raise request.refuse(backbone, needs, f"ask backbone_config() for out_strides={needed}")
    return {"feature_strides": backbone.strides, "strides": backbone.strides}


def _from_common_stride(request: _Request) -> tuple[int, ...]:
    first = as_integer(request.get("common_stride"), 1)
    if first is None:
        msg = f"common_stride must be a positive integer, got {shown(request.get('common_stride'))}."
        raise ConfigError(msg)
    return (first, 2 * first, 4 * first, 8 * first)


def _upernet(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """UPerNet: its auxiliary head reads the third level."""
    if len(backbone.channels) < 3:
        needs = "at least three levels, since its auxiliary head reads the third"
        raise request.refuse(backbone, needs, "ask backbone_config() for out_strides=(4, 8, 16, 32)")
    return {"auxiliary_in_channels": backbone.channels[2]} | _ascending(request, backbone)


def _ascending(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """Heads with an FPN from the last level to the first."""
    if len(backbone.strides) < 2 or backbone.strides != sorted(backbone.strides):
        needs = "several levels from fine to coarse"
        raise request.refuse(backbone, needs, "ask backbone_config() for out_strides=(4, 8, 16, 32)")
    return {}


def _detr(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """DETR and what is made from it: the last level, or up to `num_feature_levels`."""
    most = request.get("num_feature_levels") if "num_feature_levels" in _names(request.head) else None
    if most is not None and 1 < most < len(backbone.channels):
        needs = f"at most {most} levels (num_feature_levels)"
        raise request.refuse(backbone, needs, "ask backbone_config() for fewer, or raise num_feature_levels")
    return {"encoder_in_channels": backbone.channels}


def _depth(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """DPT, Depth Anything and ZoeDepth: tokens of one grid, which the head resamples itself."""
    count = len(request.get("neck_hidden_sizes"))
    if len(backbone.channels) != count or len(set(backbone.channels)) > 1 or len(set(backbone.strides)) > 1:
        needs = f"{count} levels (as many as neck_hidden_sizes) with the same stride and channels, which it reassembles"
        remedy = "take a ViT and out_indices=, such as those of the blocks at 1/4, 1/2, 3/4 and 4/4 of its depth"
        raise request.refuse(backbone, needs, remedy)
    size, stride = backbone.hidden_size, backbone.strides[-1]
    return {"hidden_size": size, "reassemble_hidden_size": size, "patch_size": stride}


def _at_quarters(name: str, request: _Request) -> AutobackboneConfig:
    """Return a ViT with the blocks at equal parts of its depth."""
    with torch.device("meta"):
        levels = create_feature_backbone(name, pretrained=False).native_levels
    count = len(request.get("neck_hidden_sizes"))
    if len({level.stride for level in levels}) > 1 or len(levels) < count:
        strides = ", ".join(str(level.stride) for level in levels)
        msg = (
            f"{request.head.__name__} needs {count} levels (as many as neck_hidden_sizes) with the same stride and "
            f"channels, which it reassembles, and {name!r} has levels with the strides {strides}; take a ViT."
        )
        raise ConfigError(msg)
    return backbone_config(name, out_indices=tuple((i + 1) * len(levels) // count - 1 for i in range(count)))


def _hybrid(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """Hybrid DPT: a ViT over the last of three levels. The first two go to the neck as they are."""
    patch, size = request.get("patch_size"), request.get("image_size")
    if len(backbone.channels) != 3 or backbone.strides != [patch // 4, patch // 2, patch]:
        needs = f"three levels with the strides {(patch // 4, patch // 2, patch)}, up to its patch_size"
        raise request.refuse(backbone, needs, f"ask for out_strides={(patch // 4, patch // 2, patch)}")
    height, width = as_integers(size) or (size, size)
    shape = [1, backbone.channels[-1], -(-height // patch), -(-width // patch)]
    neck = [*backbone.channels[:2], *request.get("neck_hidden_sizes")[2:]]
    return {"backbone_featmap_shape": shape, "neck_hidden_sizes": neck}


def _matting(request: _Request, backbone: AutobackboneConfig) -> dict[str, Any]:
    """ViTMatte: the last level, which is doubled to the size of the image."""
    stride = _matting_stride(request)
    if backbone.strides[-1] != stride:
        needs = f"a last level with the stride {stride}, which fusion_hidden_sizes brings to the size of the image"
        raise request.refuse(backbone, needs, f"ask backbone_config() for out_strides=({stride},)")
    return {"hidden_size": backbone.channels[-1]}


def _matting_stride(request: _Request) -> int:
    return 1 << len(request.get("fusion_hidden_sizes"))


def _names(head: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(head)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _with_strides(*strides: int, **fields: Any) -> Callable[[str, _Request], AutobackboneConfig]:
    return lambda name, _: backbone_config(name, out_strides=strides, **fields)


# By a field that only these heads have.
_BY_FIELD = {
    "reassemble_factors": _Kind(_at_quarters, _depth, "tokens"),
    "use_simple_decoder": _Kind(_with_strides(16), lambda *_: {}, "patches"),
    "convstream_hidden_sizes": _Kind(
        lambda name, request: backbone_config(name, out_strides=(_matting_stride(request),), in_chans=4), _matting
    ),
    "common_stride": _Kind(
        lambda name, request: backbone_config(name, out_strides=_from_common_stride(request)), _mask
    ),
    "auxiliary_in_channels": _Kind(_with_strides(4, 8, 16, 32), _upernet),
    "feat_strides": _Kind(lambda name, request: backbone_config(name, out_strides=_feat_strides(request)), _rt_detr),
    "fpn_feature_size": _Kind(_with_strides(4, 8, 16, 32), _ascending),
}
_HYBRID = _Kind(_with_strides(4, 8, 16), _hybrid)
_OTHER = _Kind(_with_strides(*_STRIDES), _detr)
