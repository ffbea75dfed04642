"""Loading the network of a checkpoint that fits a model, whole or not at all, and reporting what was loaded."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autobackbone.errors import WeightsCorruptedError, WeightsError, WeightsMismatchError
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.kinds import is_equal, is_plain, is_sharded
from autobackbone.weights.matching import Match, best_match, match_below, quantized_key, state_dicts
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import COUNTER, CheckpointRules, StateDict


def load_checkpoint(
    model: nn.Module,
    checkpoint: Checkpoint,
    rules: CheckpointRules,
    *,
    within: AbstractContextManager[Any] | None = None,
) -> WeightsReport:
    """Load the state dict of a checkpoint that fits a model best. If none fits, the model stays as it was.

    A state dict is refused if it leaves a parameter or persistent buffer of the model without a value, or has more
    tensors in the model's own layers than the model.

    Parameters
    ----------
    model
        Receives the tensors.
    checkpoint
        The weights.
    rules
        What is particular to the model.
    within
        Context to load the state dict in, once it is found.

    Raises
    ------
    WeightsCorruptedError
        If there is no state dict.
    WeightsMismatchError
        If a tensor is missing, of another shape, or left over, or if several networks fit equally well.
    WeightsError
        If the weights cannot be had, or if the model is on the meta device, or sharded.
    """
    return apply_weights(model, find_match(model, checkpoint, rules), checkpoint, rules, within=within)


def find_match(model: nn.Module, checkpoint: Checkpoint, rules: CheckpointRules, *, strict: bool = True) -> Match:
    """Find the state dict of a checkpoint that fits a model best; see `load_checkpoint`. Nothing is loaded.

    If not `strict`, one that fits in part will do.
    """
    parameters: Any = model.named_parameters()
    lazy = next((name for name, parameter in parameters if is_lazy(parameter)), None)
    if lazy is not None:
        msg = f"{lazy!r} has no shape yet; run the model on a batch before loading."
        raise WeightsError(msg)
    target = _tensors(model)
    if any(is_sharded(value) for value in target.values()):
        msg = f"A {type(model).__name__} that is sharded over processes cannot be loaded; load it before fully_shard()."
        raise WeightsError(msg)
    best = best_match(checkpoint.content, model, target, rules, strict=strict)
    if best is None:
        msg = f"The weights file {checkpoint.origin!r} holds no tensors by name; save a model's state_dict()."
        raise WeightsCorruptedError(msg)
    _refuse_codes(best, target, checkpoint, rules)
    if not best.loadable or (strict and not best.is_complete):
        report = _report(best, target, checkpoint, rules)
        raise WeightsMismatchError(_mismatch_text(model, best, target, report, strict=strict))
    _check_tied(model, best, checkpoint)
    return best


def apply_weights(
    model: nn.Module,
    match: Match,
    checkpoint: Checkpoint,
    rules: CheckpointRules,
    *,
    within: AbstractContextManager[Any] | None = None,
) -> WeightsReport:
    """Load what `find_match` found, and report it."""
    target = _tensors(model)
    if any(value.is_meta for value in target.values()):
        msg = f"A {type(model).__name__} on the meta device can hold no weights; create it on another device."
        raise WeightsError(msg)
    values = {name: match.state[key] for name, key in match.loadable.items()}
    for name in values:
        _check_writable(name, target[name])
    with within or nullcontext():
        model.load_state_dict(values, strict=False)
    loaded = model.state_dict()
    nonfinite = tuple(name for name in values if not is_finite(loaded[name]))
    return replace(_report(match, target, checkpoint, rules), nonfinite=nonfinite)


def with_new_head(report: WeightsReport, model: nn.Module, before: StateDict) -> WeightsReport:
    """Return the report for a model whose classifier was replaced after loading.

    Parameters
    ----------
    report
        From before the replacement.
    model
        With its new classifier.
    before
        ``state_dict(keep_vars=True)`` of the model from before the replacement.
    """
    now = model.state_dict(keep_vars=True)
    new = [name for name, value in now.items() if value is not before.get(name)]
    kept = now.keys() - set(new)
    dropped = before.keys() - kept - {*report.missing, *report.mismatched}
    return replace(
        report,
        loaded=report.loaded - sum(before[name].numel() for name in dropped),
        total=sum(value.numel() for value in now.values()),
        missing=(*(name for name in report.missing if name in kept), *new),
        mismatched=tuple(name for name in report.mismatched if name in kept),
        nonfinite=tuple(name for name in report.nonfinite if name in kept),
    )


def match_part(
    part: nn.Module, name: str, checkpoint: Checkpoint, *, entry: str, prefix: str, strict: bool = True
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint for a part that was added to a library's model. Nothing is loaded.

    Parameters
    ----------
    part
        The part. Its tensors have names below `name`, after any prefix.
    name
        Of the part, such as ``"pyramid"``.
    checkpoint
        The weights.
    entry, prefix
        Where the network beside the part was found. The part of another network is not used.
    strict
        Refuse a checkpoint with only some of the part, or with other shapes.

    Raises
    ------
    WeightsMismatchError
        If `strict` and that is so.
    """
    target = {f"{name}.{key}": value for key, value in part.state_dict().items()}
    state = dict(state_dicts(checkpoint.content)).get(entry, {})
    shared = ["", *(prefix[: i + 1] for i, c in enumerate(prefix) if c == ".")]
    rules = CheckpointRules()
    candidates = [match_below(start, state, target, entry, rules) for start in shared]
    match = max(candidates, key=lambda candidate: len(candidate.matched))
    if not match.matched:
        return {}
    beginning = f"{match.prefix}{name}."
    below = {key: value for key, value in state.items() if key.startswith(beginning)}
    match = match_below(match.prefix, below, target, entry, rules)
    _refuse_codes(match, target, checkpoint, rules)
    if strict and len(match.loadable) < len(target):
        report = _report(match, target, checkpoint, rules)
        raise WeightsMismatchError(_mismatch_text(part, match, target, report, strict=strict))
    return {key.removeprefix(f"{name}."): state[place] for key, place in match.loadable.items()}


def load_part(part: nn.Module, name: str, values: StateDict, report: WeightsReport) -> WeightsReport:
    """Load what `match_part` returned, and add it to the report on the model."""
    part.load_state_dict(values, strict=False)
    target = part.state_dict()
    return replace(
        report,
        loaded=report.loaded + sum(target[key].numel() for key in values),
        total=report.total + sum(value.numel() for value in target.values()),
        missing=(*report.missing, *(f"{name}.{key}" for key in target if key not in values)),
        unexpected=tuple(key for key in report.unexpected if f"{name}." not in key),
        nonfinite=(*report.nonfinite, *(f"{name}.{key}" for key in values if not is_finite(target[key]))),
    )


def is_finite(value: Tensor) -> bool:
    """Whether there is no NaN or infinity. A sum shows either, and may overflow."""
    if value.is_floating_point() and value.itemsize == 1:
        value = value.float()  # torch has no sums of eight bits
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _report(match: Match, target: StateDict, checkpoint: Checkpoint, rules: CheckpointRules) -> WeightsReport:
    return WeightsReport(
        origin=checkpoint.origin,
        entry=match.entry,
        prefix=match.prefix,
        converted=match.unconverted is not None,
        loaded=sum(target[name].numel() for name in match.loadable),
        total=sum(value.numel() for value in target.values()),
        missing=tuple(name for name in target if name not in match.matched and not name.endswith(COUNTER)),
        unexpected=match.unexpected(rules),
        mismatched=tuple(name for name in match.matched if name not in match.loadable),
    )


def _refuse_codes(match: Match, target: StateDict, checkpoint: Checkpoint, rules: CheckpointRules) -> None:
    """Refuse the codes of quantized formats, which are no weights."""
    code = quantized_key(match, target, rules)
    if code is not None:
        msg = (
            f"The weights file {checkpoint.origin!r} is of a quantized format: {code!r} holds "
            f"{match.original[code].dtype} codes or has scales beside it, and codes are no weights. Nothing was "
            "loaded; save the model dequantized."
        )
        raise WeightsMismatchError(msg)


def _check_tied(model: nn.Module, match: Match, checkpoint: Checkpoint) -> None:
    """Refuse several values for one tensor that the model has under several names."""
    names_of: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in match.loadable:
            names_of.setdefault(id(tensor), []).append(name)
    for first, *others in names_of.values():
        for other in others:
            if not is_equal(match.state[match.loadable[first]], match.state[match.loadable[other]]):
                msg = (
                    f"The model has one tensor as {first!r} and {other!r}, and the weights in {checkpoint.origin!r} "
                    "have two, which differ. Nothing was loaded; untie them, or save the model with both alike."
                )
                raise WeightsMismatchError(msg)


def _check_writable(name: str, value: Tensor) -> None:
    """Refuse tensors that torch would fail to write to, when others were written already."""
    fault = None
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        fault = "is sparse, nested or quantized"
    elif any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True)):
        fault = "is expanded: its values share memory"
    elif value.is_inference() and not torch.is_inference_mode_enabled():
        fault = "was made in inference mode"
    if fault is not None:
        msg = f"{name!r} of the model {fault}, and cannot be loaded. Nothing was loaded; make it a plain tensor first."
        raise WeightsError(msg)


def _mismatch_text(model: nn.Module, match: Match, target: StateDict, report: WeightsReport, *, strict: bool) -> str:
    faults = []
    if report.missing:
        faults.append(f"{len(report.missing)} missing (first {report.missing[0]!r})")
    if report.mismatched:
        first = report.mismatched[0]
        value = match.state[match.matched[first]]
        if not is_plain(value):
            shapes = "a tensor that is sparse, nested, quantized or without values"
        elif value.shape == target[first].shape:
            shapes = f"{value.dtype} for {target[first].dtype}"
        else:
            shapes = f"{tuple(value.shape)} for {tuple(target[first].shape)}"
        faults.append(f"{len(report.mismatched)} of another shape or kind (first {first!r}: {shapes})")
    if report.unexpected:
        first = (*match.surplus, *report.unexpected)[0]
        faults.append(f"{len(report.unexpected)} unexpected (first {first!r})")
    entry = f" in its entry {match.entry!r}" if match.entry else ""
    prefix = f" below the prefix {match.prefix!r}" if match.prefix else ""
    remedy = ", or take what fits with load_weights(model, weights, strict=False)" if strict else ""
    return (
        f"The weights in {report.origin!r} are not those of this {type(model).__name__}: of its {len(target)} tensors "
        f"and the file's {len(match.original)}{entry}{prefix}, {'; '.join(faults)}. Nothing was loaded; check the "
        f"model name, in_chans and img_size{remedy}."
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
