"""Creating backbones: the two functions that users call."""

from typing import Any, TypeVar

from torch import nn

from autobackbone.assembly import assemble_pooled
from autobackbone.backbone import FeatureBackbone
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError

_C = TypeVar("_C", BackboneConfig, FeatureBackboneConfig)


def create_feature_backbone(cfg: FeatureBackboneConfig | str, **overrides: Any) -> FeatureBackbone:
    """Create a backbone that returns multi-scale feature maps.

    Parameters
    ----------
    cfg
        A config, or a model name.
    **overrides
        Fields of `FeatureBackboneConfig` that take precedence.

    Returns
    -------
    FeatureBackbone
        In training mode, on the default device. On the meta device no weights are loaded or downloaded.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If a field, level or argument cannot be honored.
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
    return FeatureBackbone.from_config(_config(FeatureBackboneConfig, cfg, overrides))


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
        If the head has a hidden layer (MobileNetV3, EfficientViT, HGNet, VGG ...), timm keeps it, and the output is
        ``(B, head_hidden_size)``. For DINOv3, a module with the same members. It returns the class token of the ViTs,
        and the mean over the map of the ConvNeXts.

        The model has one more attribute, ``autobackbone``, with ``input_spec``, ``weights_report`` and ``license``.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If a field or argument cannot be honored.
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
    return assemble_pooled(_config(BackboneConfig, cfg, overrides))


def _config(kind: type[_C], cfg: _C | str, overrides: dict[str, Any]) -> _C:
    if isinstance(cfg, str):
        return kind().replace(**{"model_name": cfg} | overrides)
    if isinstance(cfg, kind):
        return cfg.replace(**overrides)
    msg = f"A {kind.__name__} or a model name is needed, got {type(cfg).__name__}."
    raise ConfigError(msg)
