"""Loading weights into a model that exists, and computing the tensors that no checkpoint has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from autobackbone.errors import ConfigError, WeightsError, WeightsMismatchError
from autobackbone.pretrained import Pretrained
from autobackbone.sources.seam import attachment_of, change_attachment
from autobackbone.unwrapping import is_flattened, submodule, unwrap
from autobackbone.values import path_of, shown
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import find_match
from autobackbone.weights.materialize import init_buffers, load_matched
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import CheckpointRules
from autobackbone.wrappers import all_backbones, backbone_names, find_backbones


def load_weights(
    model: nn.Module, weights: str | os.PathLike[str], strict: bool = True, *, name: str | None = None
) -> WeightsReport:
    """Load a checkpoint into a model.

    Parameters
    ----------
    model
        A backbone of either kind, or a pyramid, compiled or wrapped. Any other module, a part of a backbone included,
        is matched by the names of its own state dict alone.
    weights
        A file, a folder, ``hf-hub:owner/repo[@revision]``, or an ``https://`` address. The state dict in it, and the
        prefix of its names, are those that fit the model best. Names are those of the model's library. Other formats
        that the library can read are converted, and so is DINOv3 under the names of another library. A simple pyramid
        is loaded if the checkpoint has one.
    strict
        Refuse a checkpoint that leaves anything but the classifier and a simple pyramid without a value, or that has
        more tensors in the model's own layers than the model: a deeper network. If ``False``, what fits is loaded.
    name
        Load only the backbone of this name in `model`.

    Returns
    -------
    WeightsReport
        Of a backbone, also its ``weights_report``.

    Raises
    ------
    ConfigError
        If `weights` is none of these, or there is no backbone of this name.
    WeightsNotFoundError
        If there is no such file, repository or revision.
    WeightsCorruptedError
        If it is not a checkpoint that can be read.
    WeightsMismatchError
        If it does not fit, or several networks in it do; the model is then as it was.
    WeightsError
        If it cannot be downloaded, or the model is sharded over processes, or is on the meta device and no backbone.

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
    origin = _origin(weights)
    return load_checkpoint(_loadable(model, name), Checkpoint.at(origin), strict=strict)


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint, *, strict: bool = True) -> WeightsReport:
    """Load an open checkpoint into a model that nothing wraps; see `load_weights`."""
    network, rules = _target(model)
    pyramid = getattr(model, "pyramid", None) if isinstance(model, Pretrained) else None
    if rules.is_folded and not strict:
        msg = (
            "strict=False: this backbone is optimized for inference, and a part of other weights is of no use to it; "
            "load them into the backbone that it was made from, and optimize that again."
        )
        raise WeightsMismatchError(msg)
    with _naming_backbones(model):
        match = find_match(network, checkpoint, rules, strict=strict)
    report = load_matched(network, pyramid, match, checkpoint, rules, strict=strict)
    if isinstance(model, Pretrained):
        model.weights_report = report
    elif attachment_of(model) is not None:
        change_attachment(model, weights_report=report)
    return report


def init_non_persistent_buffers(model: nn.Module) -> None:
    """Compute the tensors of a model's backbones that no checkpoint has, such as position tables.

    A backbone that is created on the meta device, and gets memory from ``to_empty()``, has parameters and buffers
    without values. A state dict fills the persistent ones. This function computes the others as the library does, on
    their device and in their dtype.

    ``load_state_dict()`` of a backbone that was created on the meta device does this by itself, also under FSDP. Call
    this function if a backbone was moved to the meta device later, or if weights are loaded in another way.

    Parameters
    ----------
    model
        A backbone of either kind, or a model with some in it, on any device but meta.

    Raises
    ------
    ConfigError
        If `model` has no backbone of this package in it.
    WeightsError
        If a backbone was changed since it was created, so that its tensors are not known.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, init_non_persistent_buffers
    >>> with torch.device("meta"):
    ...     backbone = create_feature_backbone("dinov3_vits16", out_indices=(0,))
    >>> backbone = backbone.to_empty(device="cpu")
    >>> init_non_persistent_buffers(backbone)
    """
    backbones = list(all_backbones(model).values())
    if not backbones:
        msg = f"{type(model).__name__} has no backbone of this package in it, and its buffers are not known."
        raise ConfigError(msg)
    for backbone in backbones:
        attachment = attachment_of(backbone)
        assert attachment is not None, "all_backbones finds nothing else"
        init_buffers(submodule(backbone, attachment.network_path), attachment.rules)


def _origin(weights: Any) -> str:
    if not isinstance(weights, str | os.PathLike):
        kind = type(weights).__name__
        msg = f"load_weights() takes a path, a repository or an address, got {kind}; load_state_dict() takes tensors."
        raise ConfigError(msg)
    return "" if weights == "" else path_of(weights, "weights")


def _loadable(model: Any, name: str | None) -> nn.Module:
    """Return the module to load: the one that wrappers wrap, or the backbone of a name in it."""
    if not isinstance(model, nn.Module):
        msg = f"load_weights() takes a module, got {type(model).__name__}."
        raise ConfigError(msg)
    if is_flattened(model):
        kind = type(unwrap(model)).__name__
        msg = f"A {kind} in a FullyShardedDataParallel is sharded over processes and cannot be loaded; load it before."
        raise WeightsError(msg)
    if name is None:
        return unwrap(model)
    backbones = list(find_backbones(model, name).values())
    if len(backbones) != 1:
        msg = f"name={shown(name)}: load_weights() loads one backbone at a time; call it for each."
        raise ConfigError(msg)
    return unwrap(backbones[0])


def _target(model: nn.Module) -> tuple[nn.Module, CheckpointRules]:
    """Return the module whose names a checkpoint has, and how it is matched."""
    if isinstance(model, Pretrained):
        return model.checkpoint_target
    attachment = attachment_of(model)
    return model, CheckpointRules() if attachment is None else attachment.rules


@contextmanager
def _naming_backbones(model: nn.Module) -> Iterator[None]:
    """Where weights do not fit a model as a whole, name the backbones in it that they may be meant for."""
    try:
        yield
    except WeightsMismatchError as err:
        names = [name for name in backbone_names(model) if name]
        if not names:
            raise
        those = ", ".join(map(repr, names))
        msg = f"{err} Backbones in the model: {those}; to load one alone, name it, as in name={names[0]!r}."
        raise WeightsMismatchError(msg) from err
