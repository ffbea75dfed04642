"""Building timm's models, dilated ones too where only timm's features-only form of them can be."""

from typing import Any

import timm
import torch
from torch import nn

# Arguments that say where weights come from, and what is done with features: nothing of the layers.
_NOT_OF_LAYERS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "num_classes")


def create_model(name: str, **arguments: Any) -> Any:
    """Create a timm model, as `timm.create_model` does, or from its features-only form if only that can be dilated.

    MobileNetV3 and its kin have no ``output_stride``; the class that timm builds with ``features_only=True`` has. Then
    the model takes the layers of that class, and keeps its own parameters under their own names.
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
            except Exception:  # noqa: BLE001 - whatever it is, the first error says what is wrong
                dilated = None
        if dilated is None:
            raise
    model = timm.create_model(name, **{k: v for k, v in arguments.items() if k != "output_stride"})
    _take_layers(model, dilated)
    return model


def _take_layers(model: Any, dilated: Any) -> None:
    """Give a model the layers of a dilated one where the two are of one type and hold the same parameters."""
    for name, layers in dilated.named_children():
        own = getattr(model, name, None)
        if own is None or type(own) is not type(layers) or not _can_take(layers, own):
            continue
        for path, module in layers.named_modules():
            source = own.get_submodule(path)
            for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                setattr(module, key, getattr(source, key))
        setattr(model, name, layers)
    strides = dilated.feature_info.reduction(list(range(len(model.feature_info))))
    model.feature_info = [entry | {"reduction": s} for entry, s in zip(model.feature_info, strides, strict=True)]


def _can_take(layers: nn.Module, own: nn.Module) -> bool:
    """Whether layers that have no values can have those of others: all that is saved, and what they need besides."""
    saved, taken = ({name: t.shape for name, t in m.state_dict().items()} for m in (own, layers))
    unsaved = dict(own.named_buffers())  # more of them, perhaps: strided layers may blur
    return saved == taken and all(
        name in unsaved and unsaved[name].shape == t.shape for name, t in layers.named_buffers()
    )
