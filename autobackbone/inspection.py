"""What a backbone is like: its channels, strides, input and size."""

from typing import Any

from torch import nn

from autobackbone.errors import ConfigError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel, level_info
from autobackbone.sources.seam import Attachment
from autobackbone.unwrapping import unwrap


def get_feature_info(backbone: nn.Module) -> list[dict[str, Any]]:
    """Return ``num_chs``, ``reduction``, ``module`` and native ``index`` of each map, in order.

    Of a `FeatureBackbone` or a `FeaturePyramid`, compiled or wrapped.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    return list(map(level_info, _levels(backbone)))


def get_feature_channels(backbone: nn.Module) -> list[int]:
    """Return the channels of each map, in order, of a `FeatureBackbone` or a `FeaturePyramid`, compiled or wrapped.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    return [level.channels for level in _levels(backbone)]


def get_feature_strides(backbone: nn.Module) -> list[int]:
    """Return the strides, in pixels, of a `FeatureBackbone` or a `FeaturePyramid`, compiled or wrapped, in order.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    return [level.stride for level in _levels(backbone)]


def get_input_spec(model: nn.Module) -> InputSpec:
    """Return what a backbone of either kind, compiled or wrapped, takes as input.

    Raises
    ------
    ConfigError
        If `model` was not made by this package.
    """
    spec = input_spec_of(unwrap(model))
    if spec is None:
        kind = type(model).__name__
        msg = f"{kind} has no input spec: it was not made by create_backbone or create_feature_backbone."
        raise ConfigError(msg)
    return spec


def count_parameters(model: nn.Module, trainable_only: bool = True) -> int:
    """Return how many numbers the parameters of a model hold, of all or of the trainable ones.

    Raises
    ------
    ConfigError
        If `model` is no module.
    """
    value: Any = model
    if not isinstance(value, nn.Module):
        msg = f"count_parameters() takes a module, got {type(value).__name__}."
        raise ConfigError(msg)
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def input_spec_of(model: nn.Module) -> InputSpec | None:
    """Return the input spec of a backbone of either kind, or of a pyramid; ``None`` for any other module."""
    attachment = getattr(model, "autobackbone", None)
    spec = attachment.input_spec if isinstance(attachment, Attachment) else getattr(model, "input_spec", None)
    return spec if isinstance(spec, InputSpec) else None


def _levels(backbone: nn.Module) -> tuple[FeatureLevel, ...]:
    levels = getattr(unwrap(backbone), "levels", None)
    if not isinstance(levels, tuple) or not all(isinstance(level, FeatureLevel) for level in levels):
        msg = f"A FeatureBackbone is needed, got {type(backbone).__name__}; make it with create_feature_backbone()."
        raise ConfigError(msg)
    return levels
