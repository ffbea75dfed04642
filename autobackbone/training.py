"""Training: freezing stages, learning rates that decay from the head to the stem, and the blocks to shard by."""

import fnmatch
import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

from torch import nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.sources.anatomy import layers, list_blocks, stages, stem


def freeze_stages(backbone: nn.Module, n: int | None) -> None:
    """Freeze the stem and the first stages of a backbone.

    Their parameters require no gradient, and they stay in evaluation mode whatever ``train()`` says: norms keep their
    statistics, and nothing is dropped. The other parameters are left as they are, those of a simple pyramid always.
    Freeze before wrapping a backbone in DDP or FSDP.

    Parameters
    ----------
    backbone
        A `FeatureBackbone`, or a model with one in it, changed in place; what an earlier call froze is thawed first.
    n
        Native levels to freeze after the stem: 2 is ``layer1`` and ``layer2`` of a ResNet, ``stages.0`` and
        ``stages.1`` of a ConvNeXt, two blocks of a ViT. A first level that is nothing but the stem, as ResNet's, does
        not count. 0 is the stem alone, -1 all there is, ``None`` thaws.

    Raises
    ------
    ConfigError
        If there are fewer stages up to the deepest level taken, or there is no `FeatureBackbone`, or several.
    UnsupportedError
        If `n` is 0, and the architecture does not tell its stem from its first stage.

    Examples
    --------
    >>> from autobackbone import count_parameters, create_feature_backbone, freeze_stages
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> freeze_stages(backbone, 2)
    >>> count_parameters(backbone), count_parameters(backbone, trainable_only=False)
    (10493440, 11176512)
    """
    place = _Place.of(backbone)
    owner = place.owner
    if not isinstance(owner, FeatureBackbone):
        msg = f"freeze_stages() takes a FeatureBackbone, got {type(owner).__name__}; freeze its modules by hand."
        raise ConfigError(msg)
    count: Any = n
    if n is not None and (isinstance(count, bool) or not isinstance(count, Integral)):
        msg = f"freeze_stages() takes a number of stages, -1 for all, or None to thaw; got {n!r}."
        raise ConfigError(msg)
    if n is None:
        owner.freeze(set(), set())
        return
    frozen = _first_stages(place, int(count))
    owner.freeze(frozen, _resting(owner.body, frozen, place.traced[1]))


def layer_decay_param_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.05, layer_decay: float = 0.75
) -> list[dict[str, Any]]:
    """Return parameter groups whose learning rates decay layer by layer from the head to the stem.

    The layer next to the head has ``lr * layer_decay``, the one before it ``lr * layer_decay**2``, and so on. Layers
    are counted as timm counts them, mostly by block; where it does not, they are the native levels. What is not of the
    backbone's own architecture (pyramid, neck, head) has ``lr``. Norms, biases, tokens and position tables have no
    weight decay; frozen parameters are left out.

    H. Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2021, https://arxiv.org/abs/2106.08254.

    Parameters
    ----------
    model
        A backbone of either kind, or a model with one in it: a detector, say.
    lr
        Learning rate of the head, above 0.
    weight_decay
        At least 0.
    layer_decay
        From one layer to the one before it, above 0 and at most 1.

    Returns
    -------
    list of dict
        From the stem to the head: ``params``, ``lr`` and ``weight_decay``, as torch's optimizers take them, and
        ``scale``, the share of `lr`.

    Raises
    ------
    ConfigError
        If a number is out of range, or `model` has no backbone of this package in it, or several.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, layer_decay_param_groups
    >>> backbone = create_feature_backbone("convnext_atto", pretrained=False)
    >>> optimizer = torch.optim.AdamW(layer_decay_param_groups(backbone, lr=1e-3, layer_decay=0.8))
    >>> sorted({round(group["scale"], 3) for group in optimizer.param_groups})[-3:]
    [0.512, 0.64, 0.8]
    """
    for name, value, is_good, expected in (
        ("lr", lr, _is_real(lr) and lr > 0, "above 0"),
        ("weight_decay", weight_decay, _is_real(weight_decay) and weight_decay >= 0, "of at least 0"),
        ("layer_decay", layer_decay, _is_real(layer_decay) and 0 < layer_decay <= 1, "above 0 and at most 1"),
    ):
        if not is_good:
            msg = f"{name} must be a finite number {expected}, got {value!r}."
            raise ConfigError(msg)
    place = _Place.of(model)
    layer_of, head = place.layers()
    exempt = place.exempt()
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for full_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        name = full_name.removeprefix(place.prefix)
        layer = layer_of.get(name, head) if full_name.startswith(place.prefix) else head
        # What multiplies features is called weight in torch and in both libraries; tokens, tables and gains are not.
        is_matrix = parameter.ndim > 1 and "weight" in name.rpartition(".")[2]
        decays = is_matrix and not any(fnmatch.fnmatch(name, pattern) for pattern in exempt)
        if (layer, decays) not in groups:
            scale = float(layer_decay) ** (head - layer)
            rates = {"lr": float(lr) * scale, "weight_decay": float(weight_decay) if decays else 0.0}
            groups[layer, decays] = {"params": [], **rates, "scale": scale}
        groups[layer, decays]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def get_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a backbone, shallow to deep: the units to shard or to compile one by one.

    Parameters
    ----------
    model
        A backbone of either kind, or a model with one in it.

    Returns
    -------
    list of nn.Module
        The largest module of each layer that is called as a whole. Stem, norms and what is between blocks are not
        among them.

    Raises
    ------
    ConfigError
        If `model` has no backbone of this package in it, or several.

    Examples
    --------
    >>> from autobackbone import create_feature_backbone, get_blocks
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> [type(block).__name__ for block in get_blocks(backbone)]
    ['BasicBlock', 'BasicBlock', 'BasicBlock', 'BasicBlock', 'BasicBlock', 'BasicBlock', 'BasicBlock', 'BasicBlock']
    """
    place = _Place.of(model)
    layer_of, _ = place.layers()
    return list(list_blocks(place.body, layer_of, place.traced[1]))


def _first_stages(place: "_Place", n: int) -> set[str]:
    """Return the parameters of the body in the stem and the first `n` stages."""
    level_of, _ = place.traced
    stem_names = {place.inner + name for name in stem(place.network)}
    first = {name for name, level in level_of.items() if level == 0}
    before = 1 if first <= stem_names else 0  # levels that are nothing but the stem
    count = max(level_of.values()) + 1 - before
    if not -1 <= n <= count:
        msg = f"n={n}: up to its deepest level this backbone has {count} stages; freeze 0 to {count}, or -1 for all."
        raise ConfigError(msg)
    if n == 0 and not stem_names:
        msg = "n=0: this architecture does not tell its stem from its first stage; freeze 1 stage, or nothing."
        raise UnsupportedError(msg)
    end = (count if n == -1 else n) + before
    return {name for name, level in level_of.items() if level < end or name in stem_names}


def _resting(body: nn.Module, frozen: set[str], called: list[str]) -> set[str]:
    """Return the modules whose parameters are all frozen, and those without any that come before what is trained."""
    modules = dict(body.named_modules())
    own = {name: {f"{name}.{k}".lstrip(".") for k, _ in module.named_parameters()} for name, module in modules.items()}
    whole = {name for name in modules if own[name] and own[name] <= frozen}
    for name in called:
        direct = {f"{name}.{key}".lstrip(".") for key, _ in modules[name].named_parameters(recurse=False)}
        if direct - frozen:
            break
        if not own[name]:
            whole.add(name)
    return {name for name in modules if any(name == top or name.startswith(f"{top}.") or not top for top in whole)}


@dataclass(frozen=True)
class _Place:
    """Where in a model the backbone is."""

    owner: nn.Module  # what was created
    prefix: str  # of the names of its body in the model
    body: nn.Module
    inner: str  # of the library's own names in the body
    network: nn.Module

    @classmethod
    def of(cls, model: nn.Module) -> "_Place":
        given: Any = model
        if not isinstance(given, nn.Module):
            msg = f"A backbone or a model with one in it is needed, got {type(given).__name__}."
            raise ConfigError(msg)
        found = [(n, m) for n, m in given.named_modules() if _is_backbone(m)]
        if len(found) != 1:
            where = f" ({', '.join(repr(name) for name, _ in found)})" if found else ""
            kind = type(given).__name__
            msg = f"{kind} has {len(found)} backbones of this package in it{where}; give a model with one."
            raise ConfigError(msg)
        ((name, owner),) = found
        prefix = f"{name}." if name else ""
        body: nn.Module = owner
        if isinstance(owner, FeatureBackbone):
            prefix, body = f"{prefix}body.", owner.body
        inner, network = next((n, m) for n, m in body.named_modules() if hasattr(m, "checkpoint_rules"))
        return cls(owner, prefix, body, f"{inner}." if inner else "", network)

    @cached_property
    def traced(self) -> tuple[dict[str, int], list[str]]:
        """The native level of each parameter of the body, and its modules in the order of their calls."""
        spec: Any = self.owner.input_spec
        size = self.owner.padded_size(*spec.size) if isinstance(self.owner, FeatureBackbone) else spec.size
        return stages(self.body, (2, spec.in_chans, *size))

    def layers(self) -> tuple[dict[str, int], int]:
        """Return the layer of each parameter of the body, and that of a head."""
        found = layers(self.network)
        if found is not None:
            return {self.inner + name: layer for name, layer in found[0].items()}, found[1]
        level_of, _ = self.traced
        return level_of, max(level_of.values()) + 1

    def exempt(self) -> set[str]:
        """Return patterns of the body's parameters that the library does not decay."""
        return {self.inner + name for name in getattr(self.network, "no_weight_decay", set)()}


def _is_backbone(module: nn.Module) -> bool:
    """Whether a module was created here; wrappers may pass its attributes on, and heads may have copies of some."""
    return isinstance(module, FeatureBackbone) or {"input_spec", "checkpoint_rules"} <= vars(module).keys()


def _is_real(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
