"""Training: parameter groups with layer-wise learning rate decay, and the blocks to shard."""

import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn

from autobackbone.errors import ConfigError
from autobackbone.sources.anatomy import list_blocks
from autobackbone.values import as_real, shown
from autobackbone.wrappers import Place


def layer_decay_param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    *,
    include_frozen: bool = False,
    name: str | Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups whose learning rates decay layer by layer from the head to the stem.

    The layer next to the head has ``lr * layer_decay``, the layer before it ``lr * layer_decay**2``, and so on. Layers
    are those that timm defines, mostly one per block. Where timm defines none, they are the native levels. Parameters
    outside the backbone's architecture (pyramid, neck, head) have ``lr``. Norms, biases, tokens and position tables
    have no weight decay.

    Frozen parameters are left out, so the optimizer does not train them even if they are unfrozen later. To unfreeze
    during training, use ``include_frozen=True``: torch's optimizers skip parameters without a gradient.

    H. Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2021, https://arxiv.org/abs/2106.08254.

    Parameters
    ----------
    model
        A backbone of either kind, or a model that contains one, such as a detector.
    lr
        Learning rate of the head, above 0.
    weight_decay
        Weight decay, at least 0.
    layer_decay
        Factor from one layer to the layer before it, above 0 and at most 1.
    include_frozen
        Also include parameters that currently require no gradient.
    name
        Name of the backbone, or of several backbones, in a model that contains more than one. Parameters outside these
        backbones have `lr`.

    Returns
    -------
    list of dict
        Groups from the stem to the head. Each has ``params``, ``lr`` and ``weight_decay`` for torch's optimizers, and
        ``scale``, the factor on `lr`.

    Raises
    ------
    ConfigError
        If a number is out of range, if `model` contains no backbone of this package, or if it contains several and
        `name` does not select one.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, layer_decay_param_groups
    >>> backbone = create_feature_backbone("convnext_atto", pretrained=False)
    >>> groups = layer_decay_param_groups(backbone, lr=1e-3, layer_decay=0.8)
    >>> optimizer = torch.optim.AdamW(groups)
    >>> sorted({round(group["scale"], 3) for group in optimizer.param_groups})[-3:]
    [0.512, 0.64, 0.8]
    """
    rate, decay, factor = as_real(lr), as_real(weight_decay), as_real(layer_decay)
    for argument, value, is_good, expected in (
        ("lr", lr, rate is not None and rate > 0, "above 0"),
        ("weight_decay", weight_decay, decay is not None and decay >= 0, "of at least 0"),
        ("layer_decay", layer_decay, factor is not None and 0 < factor <= 1, "above 0 and at most 1"),
    ):
        if not is_good:
            msg = f"{argument} must be a finite number {expected}, got {shown(value)}."
            raise ConfigError(msg)
    assert rate is not None, "checked above"
    assert decay is not None, "checked above"
    assert factor is not None, "checked above"
    layer_of: dict[str, tuple[int, int]] = {}  # full name: layer, and layer of the head
    exempt: set[str] = set()
    for place in Place.find(model, name):
        layers, head = place.layers()
        layer_of |= {place.prefix + key: (layer, head) for key, layer in layers.items()}
        patterns = place.exempt()
        exempt |= {place.prefix + key for key in layers if any(fnmatch.fnmatch(key, each) for each in patterns)}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad and not include_frozen:
            continue
        layer, head = layer_of.get(key, (0, 0))
        below = head - layer  # layers from here to the head
        # Parameters that multiply features are named "weight" in torch and in both libraries; tokens, tables and gains
        # are not.
        decays = parameter.ndim > 1 and "weight" in key.rpartition(".")[2] and key not in exempt
        if (-below, decays) not in groups:
            scale = factor**below
            rates = {"lr": rate * scale, "weight_decay": decay if decays else 0.0}
            groups[-below, decays] = {"params": [], **rates, "scale": scale}
        groups[-below, decays]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def get_blocks(model: nn.Module, *, name: str | Sequence[str] | None = None) -> list[nn.Module]:
    """Return the blocks of a backbone, shallow to deep: the units to shard or to compile one by one.

    Parameters
    ----------
    model
        A backbone of either kind, or a model that contains one.
    name
        Name of the backbone in a model that contains more than one. With several names, the blocks of each backbone
        follow one another.

    Returns
    -------
    list of nn.Module
        For each layer, the largest module that is called as a whole. The stem, norms and modules between blocks are
        not included.

    Raises
    ------
    ConfigError
        If `model` contains no backbone of this package, or contains several and `name` does not select one.

    Examples
    --------
    >>> from autobackbone import create_feature_backbone, get_blocks
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> len(get_blocks(backbone)), type(get_blocks(backbone)[0]).__name__
    (8, 'BasicBlock')
    """
    places = Place.find(model, name)
    return [block for place in places for block in list_blocks(place.body, place.layers()[0], place.traced[1])]
