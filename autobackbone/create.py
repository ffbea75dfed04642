"""Creating backbones: config to reference to source to contract; and what can be asked of the result."""

from typing import Any, TypeVar

from torch import nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import choose_levels
from autobackbone.names import parse_name
from autobackbone.sources import Source
from autobackbone.sources.timm import TimmSource, architectures

_C = TypeVar("_C", BackboneConfig, FeatureBackboneConfig)


def create_feature_backbone(cfg: FeatureBackboneConfig | str, **overrides: Any) -> FeatureBackbone:
    """Create a backbone that gives multi-scale feature maps.

    Parameters
    ----------
    cfg
        A config, or a model name.
    **overrides
        Fields of `FeatureBackboneConfig` that take precedence.

    Returns
    -------
    FeatureBackbone
        In training mode, on the default device.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If a field, level or argument cannot be honoured.
    UnsupportedError
        If the architecture lacks an ability asked for.
    InputSizeError
        If the architecture cannot be built for `img_size`.
    WeightsError
        If the weights cannot be had, or do not fit.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> [tuple(y.shape) for y in backbone(torch.rand(1, 3, 333, 257))]
    [(1, 128, 42, 33), (1, 256, 21, 17), (1, 512, 11, 9)]
    """
    config = _config(FeatureBackboneConfig, cfg, overrides)
    source = _source(config)
    levels = choose_levels(
        source.levels,
        config.out_indices,
        config.out_strides,
        pyramid=config.pyramid,
        output_stride=config.output_stride,
    )
    native = source.build(tuple(sorted({level.index for level in levels})))
    by_index = choose_levels(source.levels, [level.index for level in levels], None) if _distinct(levels) else ()
    if by_index == levels:
        config = config.replace(out_indices=tuple(level.index for level in levels), out_strides=None)
    else:
        config = config.replace(out_indices=None, out_strides=tuple(level.stride for level in levels))
    return FeatureBackbone(native.module, source.levels, levels, native.input_spec, native.built_size, config)


def create_backbone(cfg: BackboneConfig | str, **overrides: Any) -> nn.Module:
    """Create a backbone with pooled features, or with a new linear head.

    Parameters
    ----------
    cfg
        A config, or a model name.
    **overrides
        Fields of `BackboneConfig` that take precedence.

    Returns
    -------
    nn.Module
        timm's own model: ``(B, C, H, W)`` images to ``(B, num_features)``, or to ``(B, num_classes)`` with a head.
        Where the head has a hidden layer (MobileNetV3, EfficientViT, HGNet, VGG ...) timm keeps it, and what comes
        out is ``(B, head_hidden_size)``; elsewhere the two are equal. What it takes as input: `get_input_spec`.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If a field or argument cannot be honoured.
    UnsupportedError
        If the architecture has no pooled output.
    InputSizeError
        If the architecture cannot be built for `img_size`.
    WeightsError
        If the weights cannot be had, or do not fit.

    Examples
    --------
    >>> from autobackbone import count_parameters, create_backbone
    >>> backbone = create_backbone("resnet50", pretrained=False)
    >>> backbone.num_features, count_parameters(backbone)
    (2048, 23508032)
    """
    config = _config(BackboneConfig, cfg, overrides)
    model, spec = _source(config).build_pooled()
    model.input_spec = spec  # type: ignore[assignment]
    return model


def get_feature_info(backbone: FeatureBackbone) -> list[dict[str, Any]]:
    """Return ``num_chs``, ``reduction``, ``module`` and native ``index`` of each map, in order."""
    return [
        {"num_chs": level.channels, "reduction": level.stride, "module": level.module, "index": level.index}
        for level in _feature_backbone(backbone).levels
    ]


def get_feature_channels(backbone: FeatureBackbone) -> list[int]:
    """Return the channels of each map, in order."""
    return list(_feature_backbone(backbone).channels)


def get_feature_strides(backbone: FeatureBackbone) -> list[int]:
    """Return the pixels per cell of each map, in order."""
    return list(_feature_backbone(backbone).strides)


def get_input_spec(model: nn.Module) -> InputSpec:
    """Return what a backbone of either kind takes as input.

    Raises
    ------
    ConfigError
        If `model` was not made by this package.
    """
    spec = getattr(model, "input_spec", None)
    if not isinstance(spec, InputSpec):
        kind = type(model).__name__
        msg = f"{kind} has no input spec: it was not made by create_backbone or create_feature_backbone."
        raise ConfigError(msg)
    return spec


def count_parameters(model: nn.Module, trainable_only: bool = True) -> int:
    """Return how many numbers the parameters of a model hold, of all or of the trainable ones."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def _config(kind: type[_C], cfg: _C | str, overrides: dict[str, Any]) -> _C:
    if isinstance(cfg, str):
        return kind().replace(**{"model_name": cfg} | overrides)
    if isinstance(cfg, kind):
        return cfg.replace(**overrides)
    msg = f"A {kind.__name__} or a model name is needed, got {type(cfg).__name__}."
    raise ConfigError(msg)


def _source(config: BackboneConfig | FeatureBackboneConfig) -> Source:
    ref = parse_name(config.model_name, architectures())
    if ref.source == "dinov3":
        msg = (
            f"{config.model_name!r} names a DINOv3 model of transformers, which this version does not take yet; "
            "timm hosts the same weights, see list_backbones('*dinov3*')."
        )
        raise UnsupportedError(msg)
    return TimmSource(ref, config)


def _distinct(levels: Any) -> bool:
    indices = [level.index for level in levels]
    return len(set(indices)) == len(indices)


def _feature_backbone(backbone: object) -> FeatureBackbone:
    if not isinstance(backbone, FeatureBackbone):
        msg = f"A FeatureBackbone is needed, got {type(backbone).__name__}; make it with create_feature_backbone()."
        raise ConfigError(msg)
    return backbone
