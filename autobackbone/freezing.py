"""Freezing the stages of a backbone, and the statistics of its norms."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.sources.anatomy import stem
from autobackbone.values import as_integer, shown
from autobackbone.wrappers import Place


def freeze_stages(backbone: nn.Module, n: int, *, name: str | Sequence[str] | None = None) -> None:
    """Freeze the stem and the first stages of a backbone.

    Frozen parameters require no gradient. Frozen modules stay in evaluation mode, even after ``train()`` of the
    backbone or of a model around it: norms keep their statistics, and nothing is dropped. Other parameters are
    unchanged. Those of a simple pyramid are never frozen.

    Freeze after loading a backbone, because freezing is not saved, and before wrapping it in DDP or FSDP.

    `unfreeze_stages` undoes it. Parameters that you unfreeze yourself, with ``requires_grad_()``, train normally from
    the next ``train()`` on.

    Parameters
    ----------
    backbone
        A `FeatureBackbone`, or a model that contains one. It is changed in place. Stages frozen by an earlier call are
        unfrozen first.
    n
        Number of native levels to freeze after the stem. 2 means ``layer1`` and ``layer2`` of a ResNet, ``stages.0``
        and ``stages.1`` of a ConvNeXt, or two blocks of a ViT. A first level that is only the stem, as in ResNet, does
        not count. 0 freezes only the stem, -1 freezes everything.
    name
        Name of the backbone, or of several backbones, in a model that contains more than one.

    Raises
    ------
    ConfigError
        If the backbone has fewer stages up to its deepest level, if there is no `FeatureBackbone`, or if there are
        several and `name` does not select one.
    UnsupportedError
        If `n` is 0 and the architecture does not separate its stem from its first stage.

    Examples
    --------
    >>> from autobackbone import count_parameters, create_feature_backbone, freeze_stages
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> freeze_stages(backbone, 2)
    >>> count_parameters(backbone), count_parameters(backbone, trainable_only=False)
    (10493440, 11176512)
    """
    owners = _feature_backbones("freeze_stages", backbone, name)
    value: Any = n
    count = as_integer(value)
    if count is None:
        remedy = "; unfreeze_stages() undoes it" if value is None else ""
        msg = f"freeze_stages() takes a number of stages, or -1 for all, got {shown(value)}{remedy}."
        raise ConfigError(msg)
    frozen = [_first_stages(place, count) for _, place in owners]
    for (owner, place), parameters in zip(owners, frozen, strict=True):  # after all checks
        owner.freeze(parameters, _eval_modules(owner.body, parameters, place.traced[1]))


def unfreeze_stages(backbone: nn.Module, *, name: str | Sequence[str] | None = None) -> None:
    """Undo `freeze_stages`: parameters that it froze require gradients again.

    Parameters
    ----------
    backbone
        A `FeatureBackbone`, or a model that contains one. It is changed in place.
    name
        Name of the backbone, or of several backbones, in a model that contains more than one.

    Raises
    ------
    ConfigError
        If there is no `FeatureBackbone`, or if there are several and `name` does not select one.
    """
    for owner, _ in _feature_backbones("unfreeze_stages", backbone, name):
        owner.freeze((), ())


def freeze_norms(backbone: nn.Module, *, affine: bool = False, name: str | Sequence[str] | None = None) -> None:
    """Freeze the statistics of a backbone's batch norms.

    The norms normalize with their current statistics, usually those of the pretrained weights, and stay in evaluation
    mode even after ``train()``. Detectors are trained this way because their batches are too small for good statistics.
    With ``affine=True`` the norms compute the same as torchvision's ``FrozenBatchNorm2d``. Norms without statistics,
    such as layer norms, are unchanged.

    `unfreeze_norms` undoes it. Norms and stages are frozen independently of each other. Freezing is not saved.

    Parameters
    ----------
    backbone
        A `FeatureBackbone`, or a model that contains one. It is changed in place.
    affine
        Also freeze the weights and biases of these norms; by default they are trained.
    name
        Name of the backbone, or of several backbones, in a model that contains more than one.

    Raises
    ------
    ConfigError
        If there is no `FeatureBackbone`, or if there are several and `name` does not select one.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, freeze_norms
    >>> backbone = create_feature_backbone("resnet18", pretrained=False)
    >>> freeze_norms(backbone)
    >>> before = backbone.network.bn1.running_mean.clone()
    >>> _ = backbone.train()(torch.rand(2, 3, 64, 64))
    >>> torch.equal(backbone.network.bn1.running_mean, before)
    True
    """
    for owner, _ in _feature_backbones("freeze_norms", backbone, name):
        norms = {key: module for key, module in owner.body.named_modules() if _has_statistics(module)}
        parameters = {f"{key}.{p}" for key, norm in norms.items() for p, _ in norm.named_parameters(recurse=False)}
        owner.freeze_norms(parameters if affine else (), norms)


def unfreeze_norms(backbone: nn.Module, *, name: str | Sequence[str] | None = None) -> None:
    """Undo `freeze_norms`: norms follow ``train()`` again, and parameters that it froze require gradients.

    Parameters
    ----------
    backbone
        A `FeatureBackbone`, or a model that contains one. It is changed in place.
    name
        Name of the backbone, or of several backbones, in a model that contains more than one.

    Raises
    ------
    ConfigError
        If there is no `FeatureBackbone`, or if there are several and `name` does not select one.
    """
    for owner, _ in _feature_backbones("unfreeze_norms", backbone, name):
        owner.freeze_norms((), ())


def _feature_backbones(
    function: str, model: nn.Module, name: str | Sequence[str] | None
) -> list[tuple[FeatureBackbone, Place]]:
    backbones = []
    for place in Place.find(model, name):
        if not isinstance(place.owner, FeatureBackbone):
            kind = type(place.owner).__name__
            msg = f"{function}() takes a FeatureBackbone, got {kind}; freeze its modules by hand."
            raise ConfigError(msg)
        backbones.append((place.owner, place))
    return backbones


def _has_statistics(module: nn.Module) -> bool:
    """Whether a module keeps running statistics: batch norms, including fused ones."""
    buffers = {key for key, _ in module.named_buffers(recurse=False)}
    return not buffers.isdisjoint(("running_mean", "running_var"))


def _first_stages(place: Place, n: int) -> set[str]:
    """Return the parameters of the body in the stem and the first `n` stages."""
    level_of, _ = place.traced
    stem_names = {place.inner + name for name in stem(place.network)}
    first = {name for name, level in level_of.items() if level == 0}
    stem_levels = 1 if first <= stem_names else 0  # levels that are only the stem
    count = max(level_of.values()) + 1 - stem_levels
    if not -1 <= n <= count:
        msg = f"n={n}: up to its deepest level this backbone has {count} stages; freeze 0 to {count}, or -1 for all."
        raise ConfigError(msg)
    if n == 0 and not stem_names:
        msg = "n=0: this architecture does not tell its stem from its first stage; freeze 1 stage, or nothing."
        raise UnsupportedError(msg)
    end = (count if n == -1 else n) + stem_levels
    return {name for name, level in level_of.items() if level < end or name in stem_names}


def _eval_modules(body: nn.Module, frozen: set[str], call_order: list[str]) -> set[str]:
    """Return the modules whose parameters are all frozen, and those without parameters before the first trained one."""
    modules = dict(body.named_modules())
    parameters = {
        name: {f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters()} for name, module in modules.items()
    }
    roots = {name for name in modules if parameters[name] and parameters[name] <= frozen}
    for name in call_order:
        direct = {f"{name}.{key}".lstrip(".") for key, _ in modules[name].named_parameters(recurse=False)}
        if direct - frozen:
            break
        if not parameters[name]:
            roots.add(name)
    return {name for name in modules if any(name == root or name.startswith(f"{root}.") or not root for root in roots)}
