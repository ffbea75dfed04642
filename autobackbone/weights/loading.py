"""Weights: loading the network in a checkpoint that fits a model, whole or not at all, and telling what was loaded."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autobackbone.errors import WeightsCorruptedError, WeightsError, WeightsMismatchError
from autobackbone.weights.kinds import is_equal, is_plain
from autobackbone.weights.matching import (
    COUNTER,
    Match,
    Rules,
    StateDict,
    best_match,
    match_below,
    quantized,
    state_dicts,
)
from autobackbone.weights.report import WeightsReport


def load_checkpoint(
    model: nn.Module,
    content: Mapping[str, Any],
    source: str,
    rules: Rules,
    *,
    strict: bool = True,
    within: AbstractContextManager[Any] | None = None,
) -> WeightsReport:
    """Load the state dict in a checkpoint that fits a model best; a model that none fits is left as it was.

    Parameters
    ----------
    model
        Takes the tensors.
    content
        What a checkpoint holds: a state dict, or mappings that hold some.
    source
        Where it is from, for messages.
    rules
        What is particular to the model.
    strict
        Refuse a state dict that leaves a parameter or persistent buffer of the model without a value, or that has more
        in the model's own layers than the model.
    within
        Context to load the state dict in, once it is found.

    Raises
    ------
    WeightsCorruptedError
        If there is no state dict.
    WeightsMismatchError
        If `strict` and something is missing, of another shape, or left over; if several networks fit equally well; or
        if nothing fits at all.
    WeightsError
        If the model is on the meta device, or sharded.
    """
    match = find_weights(model, content, source, rules, strict=strict)
    return apply_weights(model, match, source, rules, within=within)


def find_weights(
    model: nn.Module, content: Mapping[str, Any], source: str, rules: Rules, *, strict: bool = True
) -> Match:
    """Find the state dict in a checkpoint that fits a model best; see `load_checkpoint`. Nothing is loaded."""
    parameters: Any = model.named_parameters()
    lazy = next((name for name, parameter in parameters if is_lazy(parameter)), None)
    if lazy is not None:
        msg = f"{lazy!r} has no shape yet; run the model on a batch before loading."
        raise WeightsError(msg)
    own = _tensors(model)
    if any(hasattr(value, "full_tensor") for value in own.values()):  # a DTensor, whose import takes long
        msg = f"A {type(model).__name__} that is sharded over processes cannot be loaded; load it before fully_shard()."
        raise WeightsError(msg)
    best = best_match(content, model, own, rules, strict=strict)
    if best is None:
        msg = f"The weights file {source!r} holds no tensors by name; save a model's state_dict()."
        raise WeightsCorruptedError(msg)
    _refuse_codes(best, own, source, rules)
    if not best.fitting or (strict and not best.is_complete):
        raise WeightsMismatchError(_mismatch(model, best, own, _report(best, own, source, rules), strict=strict))
    _check_tied(model, best, source)
    return best


def apply_weights(
    model: nn.Module,
    match: Match,
    source: str,
    rules: Rules,
    *,
    within: AbstractContextManager[Any] | None = None,
) -> WeightsReport:
    """Load what `find_weights` found, and return what there is to say of it."""
    own = _tensors(model)
    if any(value.is_meta for value in own.values()):
        msg = f"A {type(model).__name__} on the meta device can hold no weights; create it on another device."
        raise WeightsError(msg)
    values = {name: match.state[key] for name, key in match.fitting.items()}
    for name in values:
        _check_writable(name, own[name])
    with within or nullcontext():
        model.load_state_dict(values, strict=False)
    loaded = model.state_dict()
    nonfinite = tuple(name for name in values if not is_finite(loaded[name]))
    return replace(_report(match, own, source, rules), nonfinite=nonfinite)


def with_new_head(report: WeightsReport, model: nn.Module, before: StateDict) -> WeightsReport:
    """Return what was loaded into a model whose classifier was replaced afterwards.

    Parameters
    ----------
    report
        What was loaded before that.
    model
        With its new classifier.
    before
        ``state_dict(keep_vars=True)`` of the model from before that.
    """
    now = model.state_dict(keep_vars=True)
    new = [name for name, value in now.items() if value is not before.get(name)]
    kept = now.keys() - set(new)
    loaded = before.keys() - kept - {*report.missing, *report.mismatched}
    return replace(
        report,
        loaded=report.loaded - sum(before[name].numel() for name in loaded),
        total=sum(value.numel() for value in now.values()),
        missing=(*(name for name in report.missing if name in kept), *new),
        mismatched=tuple(name for name in report.mismatched if name in kept),
        nonfinite=tuple(name for name in report.nonfinite if name in kept),
    )


def find_part(
    part: nn.Module,
    name: str,
    content: Mapping[str, Any],
    source: str,
    *,
    entry: str,
    prefix: str,
    strict: bool = True,
) -> dict[str, Tensor]:
    """Return what a checkpoint holds for a part that was added to a library's model; nothing is loaded.

    Parameters
    ----------
    part
        The part; its tensors have names below `name`, whatever is before that.
    name
        Of the part, such as ``"pyramid"``.
    content, source
        As in `load_checkpoint`.
    entry, prefix
        Where the network beside the part was found: that of another network is not taken.
    strict
        Refuse only some of the part, or some in another shape.

    Raises
    ------
    WeightsMismatchError
        If `strict` and that is so.
    """
    own = {f"{name}.{key}": value for key, value in part.state_dict().items()}
    state = dict(state_dicts(content)).get(entry, {})
    shared = ["", *(prefix[: i + 1] for i, c in enumerate(prefix) if c == ".")]
    matches = [match_below(start, state, own, entry, Rules()) for start in shared]
    match = max(matches, key=lambda found: len(found.named))
    if not match.named:
        return {}
    beginning = f"{match.prefix}{name}."
    below = {key: value for key, value in state.items() if key.startswith(beginning)}
    match = match_below(match.prefix, below, own, entry, Rules())
    _refuse_codes(match, own, source, Rules())
    if strict and len(match.fitting) < len(own):
        raise WeightsMismatchError(_mismatch(part, match, own, _report(match, own, source, Rules()), strict=strict))
    return {key.removeprefix(f"{name}."): state[place] for key, place in match.fitting.items()}


def load_part(part: nn.Module, name: str, values: StateDict, report: WeightsReport) -> WeightsReport:
    """Load what `find_part` found beside what was loaded into the model, and return what there is to say of both."""
    part.load_state_dict(values, strict=False)
    own = part.state_dict()
    return replace(
        report,
        loaded=report.loaded + sum(own[key].numel() for key in values),
        total=report.total + sum(value.numel() for value in own.values()),
        missing=(*report.missing, *(f"{name}.{key}" for key in own if key not in values)),
        unexpected=tuple(key for key in report.unexpected if f"{name}." not in key),
        nonfinite=(*report.nonfinite, *(f"{name}.{key}" for key in values if not is_finite(own[key]))),
    )


def _report(match: Match, own: StateDict, source: str, rules: Rules) -> WeightsReport:
    return WeightsReport(
        source=source,
        entry=match.entry,
        prefix=match.prefix,
        converted=match.unconverted is not None,
        loaded=sum(own[name].numel() for name in match.fitting),
        total=sum(value.numel() for value in own.values()),
        missing=tuple(name for name in own if name not in match.named and not name.endswith(COUNTER)),
        unexpected=match.unexpected(rules),
        mismatched=tuple(name for name in match.named if name not in match.fitting),
    )


def _refuse_codes(match: Match, own: StateDict, source: str, rules: Rules) -> None:
    """Refuse the codes of quantized formats, which are no weights."""
    code = quantized(match, own, rules)
    if code is not None:
        msg = (
            f"The weights file {source!r} is of a quantized format: {code!r} holds {match.source[code].dtype} codes or "
            "has scales beside it, and codes are no weights. Nothing was loaded; save the model dequantized."
        )
        raise WeightsMismatchError(msg)


def _check_tied(model: nn.Module, match: Match, source: str) -> None:
    """Refuse several values for one tensor that the model has under several names."""
    names_of: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in match.fitting:
            names_of.setdefault(id(tensor), []).append(name)
    for first, *others in names_of.values():
        for other in others:
            if not is_equal(match.state[match.fitting[first]], match.state[match.fitting[other]]):
                msg = (
                    f"The model has one tensor as {first!r} and {other!r}, and the weights in {source!r} have two, "
                    "which differ. Nothing was loaded; untie them, or save the model with both alike."
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


def _mismatch(model: nn.Module, best: Match, own: StateDict, report: WeightsReport, *, strict: bool) -> str:
    faults = []
    if report.missing:
        faults.append(f"{len(report.missing)} missing (first {report.missing[0]!r})")
    if report.mismatched:
        first = report.mismatched[0]
        given = best.state[best.named[first]]
        if not is_plain(given):
            shapes = "a tensor that is sparse, nested, quantized or without values"
        elif given.shape == own[first].shape:
            shapes = f"{given.dtype} for {own[first].dtype}"
        else:
            shapes = f"{tuple(given.shape)} for {tuple(own[first].shape)}"
        faults.append(f"{len(report.mismatched)} of another shape or kind (first {first!r}: {shapes})")
    if report.unexpected:
        first = (*best.surplus, *report.unexpected)[0]
        faults.append(f"{len(report.unexpected)} unexpected (first {first!r})")
    entry = f" in its entry {best.entry!r}" if best.entry else ""
    prefix = f" below the prefix {best.prefix!r}" if best.prefix else ""
    remedy = ", or take what fits with load_weights(model, source, strict=False)" if strict else ""
    return (
        f"The weights in {report.source!r} are not those of this {type(model).__name__}: of its {len(own)} tensors and "
        f"the file's {len(best.source)}{entry}{prefix}, {'; '.join(faults)}. Nothing was loaded; check the model name, "
        f"in_chans and img_size{remedy}."
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def is_finite(value: Tensor) -> bool:
    """Whether there is no NaN or infinity: a sum shows either, and may overflow."""
    if value.is_floating_point() and value.itemsize == 1:
        value = value.float()  # torch has no sums of eight bits
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())
