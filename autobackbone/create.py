"""Creating backbones: config to reference to source to contract; and what can be asked of the result."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError, WeightsError, WeightsMismatchError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel
from autobackbone.sources.choose import make_plan
from autobackbone.values import path_of, shown
from autobackbone.weights.files import find_files, read_checkpoint
from autobackbone.weights.loading import apply_weights, find_part, find_weights, load_part
from autobackbone.weights.matching import Rules
from autobackbone.weights.materialize import load_on_meta, materialize
from autobackbone.weights.report import WeightsReport
from autobackbone.wrappers import backbone_names, find_backbones, is_flattened, unwrap

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
        Where the head has a hidden layer (MobileNetV3, EfficientViT, HGNet, VGG ...) timm keeps it, and what comes
        out is ``(B, head_hidden_size)``; elsewhere the two are equal. For DINOv3 a module with the same members:
        the class token of the ViTs, the mean over the map of the ConvNeXts. What it takes as input: `get_input_spec`;
        what was loaded: ``weights_report``.

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
    with torch.inference_mode(mode=False):  # it can be trained, whatever mode it was made in
        native = make_plan(_config(BackboneConfig, cfg, overrides)).build_pooled()
    model: Any = native.module
    model.input_spec = native.input_spec
    model.weights_report = native.weights_report
    return model  # type: ignore[no-any-return]


def load_weights(
    model: nn.Module, source: str | os.PathLike[str], strict: bool = True, *, name: str | None = None
) -> WeightsReport:
    """Load a checkpoint into a model that is there.

    Parameters
    ----------
    model
        A backbone of either kind, compiled or wrapped; another module is matched by the names of its own state dict.
    source
        A file, a folder, ``hf-hub:owner/repo[@revision]``, or an ``https://`` address. What is taken is the state dict
        in it, and the prefix of its names, that fit the model best. Its names are those of the library that the model
        is from; other formats that the library knows, and DINOv3 under the names of another library, are converted. A
        simple pyramid is loaded if the checkpoint has one.
    strict
        Refuse a checkpoint that leaves anything but the classifier and a simple pyramid without a value, or that has
        more in the model's own layers than the model: a deeper network. If ``False``, what fits is loaded.
    name
        Load the backbone of this name in `model` alone.

    Returns
    -------
    WeightsReport
        Also ``weights_report`` of the backbone.

    Raises
    ------
    ConfigError
        If `source` is none of these, or there is no backbone of this name.
    WeightsNotFoundError
        If there is no such file, repository or revision.
    WeightsCorruptedError
        If it is not a checkpoint that can be read.
    WeightsMismatchError
        If it does not fit, or several networks in it do; the model is then as it was.
    WeightsError
        If it cannot be downloaded, or the model is sharded over processes.

    Examples
    --------
    >>> import tempfile
    >>> from autobackbone import create_feature_backbone, load_weights
    >>> trained = create_feature_backbone("resnet18", pretrained=False)
    >>> backbone = create_feature_backbone("resnet18", pretrained=False, out_strides=(4, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trained.save_pretrained(folder)
    ...     report = load_weights(backbone, folder)
    >>> report.coverage, report.prefix, report.missing
    (1.0, 'body.model.', ())
    """
    given: Any = source
    if not isinstance(given, str | os.PathLike):
        kind = type(given).__name__
        msg = f"load_weights() takes a path, a repository or an address, got {kind}; load_state_dict() takes tensors."
        raise ConfigError(msg)
    taker: Any = model
    if not isinstance(taker, nn.Module):
        msg = f"load_weights() takes a module, got {type(taker).__name__}."
        raise ConfigError(msg)
    text = "" if source == "" else path_of(source, "source")
    if is_flattened(model):
        kind = type(unwrap(model)).__name__
        msg = f"A {kind} in a FullyShardedDataParallel is sharded over processes and cannot be loaded; load it before."
        raise WeightsError(msg)
    model = unwrap(model if name is None else _one_backbone(model, name))
    taken = model.network if isinstance(model, FeatureBackbone) else model
    rules = getattr(taken, "checkpoint_rules", Rules())
    content = read_checkpoint(find_files(text), text)
    pyramid = model.pyramid if isinstance(model, FeatureBackbone) else None
    with _naming_backbones(model):
        match = find_weights(taken, content, text, rules, strict=strict)
    found = {}
    if pyramid is not None:
        entry, prefix = match.entry, match.prefix
        found = find_part(pyramid, "pyramid", content, text, entry=entry, prefix=prefix, strict=strict)
    if rules.build is not None and any(t.is_meta for t in taken.state_dict().values()):
        report = load_on_meta(taken, match, text, rules)
        if pyramid is not None:
            materialize(pyramid)
    else:
        report = apply_weights(taken, match, text, rules)
    if pyramid is not None:
        report = load_part(pyramid, "pyramid", found, report)
    if isinstance(getattr(model, "input_spec", None), InputSpec):
        model.weights_report = report  # type: ignore[assignment]
    return report


def get_feature_info(backbone: nn.Module) -> list[dict[str, Any]]:
    """Return ``num_chs``, ``reduction``, ``module`` and native ``index`` of each map, in order.

    Of a `FeatureBackbone` or a `FeaturePyramid`, compiled or wrapped.
    """
    return [
        {"num_chs": level.channels, "reduction": level.stride, "module": level.module, "index": level.index}
        for level in _levels(backbone)
    ]


def get_feature_channels(backbone: nn.Module) -> list[int]:
    """Return the channels of each map, in order, of a `FeatureBackbone` or a `FeaturePyramid`, compiled or wrapped."""
    return [level.channels for level in _levels(backbone)]


def get_feature_strides(backbone: nn.Module) -> list[int]:
    """Return the strides, in pixels, of a `FeatureBackbone` or a `FeaturePyramid`, compiled or wrapped, in order."""
    return [level.stride for level in _levels(backbone)]


def get_input_spec(model: nn.Module) -> InputSpec:
    """Return what a backbone of either kind, compiled or wrapped, takes as input.

    Raises
    ------
    ConfigError
        If `model` was not made by this package.
    """
    spec = getattr(unwrap(model), "input_spec", None)
    if not isinstance(spec, InputSpec):
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
    given: Any = model
    if not isinstance(given, nn.Module):
        msg = f"count_parameters() takes a module, got {type(given).__name__}."
        raise ConfigError(msg)
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def _config(kind: type[_C], cfg: _C | str, overrides: dict[str, Any]) -> _C:
    if isinstance(cfg, str):
        return kind().replace(**{"model_name": cfg} | overrides)
    if isinstance(cfg, kind):
        return cfg.replace(**overrides)
    msg = f"A {kind.__name__} or a model name is needed, got {type(cfg).__name__}."
    raise ConfigError(msg)


def _levels(backbone: nn.Module) -> tuple[FeatureLevel, ...]:
    levels = getattr(unwrap(backbone), "levels", None)
    if not isinstance(levels, tuple) or not all(isinstance(level, FeatureLevel) for level in levels):
        msg = f"A FeatureBackbone is needed, got {type(backbone).__name__}; make it with create_feature_backbone()."
        raise ConfigError(msg)
    return levels


def _one_backbone(model: nn.Module, name: str) -> nn.Module:
    found = list(find_backbones(model, name).values())
    if len(found) != 1:
        msg = f"name={shown(name)}: load_weights() loads one backbone at a time; call it for each."
        raise ConfigError(msg)
    return found[0]


@contextmanager
def _naming_backbones(model: nn.Module) -> Iterator[None]:
    """Where weights do not fit a model as a whole, say which backbones in it they may be meant for."""
    try:
        yield
    except WeightsMismatchError as err:
        names = [name for name in backbone_names(model) if name]
        if not names:
            raise
        those = ", ".join(map(repr, names))
        msg = f"{err} Backbones in the model: {those}; to load one alone, name it, as in name={names[0]!r}."
        raise WeightsMismatchError(msg) from err
