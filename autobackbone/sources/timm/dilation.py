"""Create timm's models, including dilated ones that timm builds only with ``features_only=True``."""

from typing import Any

import timm
import torch
from torch import nn

# Arguments about weights and the head, which do not affect the layers.
_NOT_OF_LAYERS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "num_classes")


def create_model(name: str, **arguments: Any) -> Any:
    """Create a timm model as `timm.create_model` does, also dilated if only its features-only form can be dilated.

    MobileNetV3 and similar models do not accept ``output_stride``, but the class that timm builds for them with
    ``features_only=True`` does. The model then gets the layers of that class, and keeps its parameters and their names.
    """
    try:
        return timm.create_model(name, **arguments)
    except TypeError:  # how Python refuses an argument
        if "output_stride" not in arguments:
            raise
        layers = {k: v for k, v in arguments.items() if k not in _NOT_OF_LAYERS}
        with torch.device("meta"):
            try:
                dilated = timm.create_model(name, features_only=True, **layers)
            except Exception:  # noqa: BLE001 - the first error explains the problem better
                dilated = None
        if dilated is None:
            raise
    model = timm.create_model(name, **{k: v for k, v in arguments.items() if k != "output_stride"})
    _move_layers(model, dilated)
    return model


def _move_layers(model: Any, dilated: Any) -> None:
    """Move the layers of a dilated model into another one, where both have the same type and parameters."""
    for name, layers in dilated.named_children():
        original = getattr(model, name, None)
        if original is None or type(original) is not type(layers) or not _can_replace(layers, original):
            continue
        for path, module in layers.named_modules():
            source = original.get_submodule(path)
            for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                setattr(module, key, getattr(source, key))
        setattr(model, name, layers)
    strides = dilated.feature_info.reduction(list(range(len(model.feature_info))))
    model.feature_info = [entry | {"reduction": s} for entry, s in zip(model.feature_info, strides, strict=True)]


def _can_replace(layers: nn.Module, original: nn.Module) -> bool:
    """Whether layers without values can use those of `original`: the same state dict, and all their other buffers."""
    original_shapes, shapes = ({name: t.shape for name, t in m.state_dict().items()} for m in (original, layers))
    buffers = dict(original.named_buffers())  # may have more buffers: strided layers may blur
    return original_shapes == shapes and all(
        name in buffers and buffers[name].shape == t.shape for name, t in layers.named_buffers()
    )
