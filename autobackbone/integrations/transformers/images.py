"""Image processors of transformers that do to images what the weights of a backbone expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedConfig

from autobackbone.errors import ConfigError, InputError
from autobackbone.integrations.transformers.config import AutobackboneConfig
from autobackbone.integrations.transformers.model import AutobackboneModel
from autobackbone.values import shown

if TYPE_CHECKING:
    from autobackbone.input_spec import InputSpec

ProcessorT = TypeVar("ProcessorT")


def image_processor(processor: type[ProcessorT], model: Any, **fields: Any) -> ProcessorT:
    """Return an image processor that normalizes images as the weights of a backbone expect.

    Parameters
    ----------
    processor
        Class of the processor, such as `RTDetrImageProcessor`: it resizes, pads and reads the head's outputs.
    model
        A model of transformers with a backbone of this package in it, or its config.
    **fields
        Fields of the processor, which take precedence.

    Returns
    -------
    BaseImageProcessor
        With ``image_mean``, ``image_std`` and ``resample`` of the `InputSpec`, and its ``size`` if the backbone takes
        no other. Any other size is that of the class.

    Raises
    ------
    ConfigError
        If there is no such backbone.
    InputError
        If the backbone takes other images than this size.

    Examples
    --------
    >>> from transformers import RTDetrConfig, RTDetrImageProcessor
    >>> from autobackbone.integrations.transformers import backbone_config, head_config
    >>> from autobackbone.integrations.transformers import image_processor
    >>> config = head_config(RTDetrConfig, backbone_config("resnet18", pretrained=False))
    >>> size = {"height": 320, "width": 320}
    >>> processor = image_processor(RTDetrImageProcessor, config, size=size)
    >>> processor.image_mean, processor.do_normalize
    ((0.485, 0.456, 0.406), True)
    """
    spec = _input_spec(model)
    settings: dict[str, Any] = {
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "resample": Image.Resampling[spec.interpolation.upper()],
    }
    if spec.fixed_size:
        size = {"height": spec.size[0], "width": spec.size[1]}
        if fields.get("size", size) != size:
            msg = f"size={shown(fields['size'])}: the backbone takes images of {spec.size[0]}x{spec.size[1]} only."
            raise InputError(msg)
        settings["size"] = size
    make: Any = processor
    result: ProcessorT = make(**(settings | fields))
    return result


def _input_spec(model: Any) -> InputSpec:
    if isinstance(model, nn.Module):
        backbones = [module for module in model.modules() if isinstance(module, AutobackboneModel)]
        if len(backbones) == 1:
            return backbones[0].backbone.input_spec
    config = model if isinstance(model, AutobackboneConfig) else getattr(model, "backbone_config", None)
    if not isinstance(model, PreTrainedConfig) or not isinstance(config, AutobackboneConfig):
        msg = (
            f"image_processor() needs a model of transformers with one backbone of this package in it, or its config, "
            f"got {type(model).__name__}."
        )
        raise ConfigError(msg)
    with torch.device("meta"):
        return config.create().input_spec
