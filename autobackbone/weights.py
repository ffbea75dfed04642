"""Weights: matching what a checkpoint holds to a model, by name, and loading it whole or not at all."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.errors import WeightsCorruptedError, WeightsError, WeightsMismatchError

# Of several state dicts that fit equally well: averaged weights first, as timm does, and what a student learned from.
_PREFERRED = {"ema", "teacher", "averaged", "swa"}
_AVOIDED = {"avg", "grad", "grads", "momentum", "optim", "optimizer"}  # what optimizers keep by the names of parameters
# Counts batches for batch norms without momentum; checkpoints from before it was there do without.
COUNTER = "num_batches_tracked"
StateDict = Mapping[str, Tensor]
Converter = Callable[[StateDict, StateDict], StateDict | None]


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded into a model, and from where.

    Attributes
    ----------
    source
        What the weights were asked for by: a path, an address, a repository, or the name of published weights.
    entry
        Where in the checkpoint the state dict was, such as ``"state_dict"``; empty if it is the checkpoint.
    prefix
        What was stripped from its names, such as ``"module.backbone."``.
    converted
        Whether tensors were renamed or reshaped: to another library's names, another size or number of channels.
    loaded, total
        Numbers loaded, and numbers that the parameters and persistent buffers of the model hold.
    missing
        Parameters and buffers of the model that nothing was found for; they are as they were.
    unexpected
        Names of the state dict, without the prefix, that the model has no place for. Classifiers and layers that the
        model was made without are not counted, nor is what a library's conversion of other names leaves out.
    mismatched
        Parameters and buffers of the model whose tensor is of another shape, or not of the same kind of number.
    nonfinite
        Parameters and buffers of the model that were given NaN or infinity. Published weights are not searched.
    """

    source: str
    entry: str = ""
    prefix: str = ""
    converted: bool = False
    loaded: int = 0
    total: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the model's numbers that was loaded, from 0 to 1."""
        return self.loaded / self.total if self.total else 1.0

    def __str__(self) -> str:
        parts = [f"{self.coverage:.1%} of {self.total:,} numbers loaded from {self.source!r}"]
        if self.entry:
            parts.append(f"entry {self.entry!r}")
        if self.prefix:
            parts.append(f"prefix {self.prefix!r}")
        if self.converted:
            parts.append("converted")
        for name in ("missing", "mismatched", "unexpected", "nonfinite"):
            found = getattr(self, name)
            if found:
                parts.append(f"{len(found)} {name} (first {found[0]!r})")
        return "; ".join(parts)


@dataclass(frozen=True)
class Rules:
    """What is particular to a model when checkpoints are matched to it.

    Attributes
    ----------
    optional
        What the names of classifiers begin with: a checkpoint may be without them, and the model as well.
    known
        What the names of tensors begin with that a checkpoint may have and the model was made without.
    converters
        Tried in order where names or shapes differ: a state dict, and the model's own, to one in the names and shapes
        of the model, what there is no place for included; or to ``None`` if it is not of the kind that it knows.
    """

    optional: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    converters: tuple[Converter, ...] = ()


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
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if any(value.is_meta for value in own.values()):
        msg = f"A {type(model).__name__} on the meta device can hold no weights; create it on another device."
        raise WeightsError(msg)
    if any(hasattr(value, "full_tensor") for value in own.values()):  # a DTensor, whose import takes long
        msg = f"A {type(model).__name__} that is sharded over processes cannot be loaded; load it before fully_shard()."
        raise WeightsError(msg)
    candidates = [_match(state, own, entry) for entry, state in _state_dicts(content)]
    if not candidates:
        msg = f"The weights file {source!r} holds no tensors by name; save a model's state_dict()."
        raise WeightsCorruptedError(msg)
    if not any(len(match.fitting) == len(own) and not match.surplus(own, rules) for match in candidates):
        candidates += [found for match in candidates for found in _converted(match, own, rules)]
    candidates.sort(key=lambda match: match.rank(own, rules), reverse=True)
    best, *others = candidates
    for other in others[:1]:
        if other.rank(own, rules) == best.rank(own, rules) and other.entry != best.entry:
            _check_same(best, other, own)
    report = best.report(own, source, rules)
    unfilled = [name for name in report.missing + report.mismatched if not name.startswith(rules.optional)]
    if not best.fitting or (strict and (unfilled or best.surplus(own, rules))):
        raise WeightsMismatchError(_mismatch(model, best, own, report))
    values = {name: best.state[key] for name, key in best.fitting.items()}
    with within or nullcontext():
        model.load_state_dict(values, strict=False)
    loaded = model.state_dict()
    return replace(report, nonfinite=tuple(name for name in values if not _is_finite(loaded[name])))


def with_new_head(report: WeightsReport, model: nn.Module, heads: tuple[str, ...]) -> WeightsReport:
    """Return what was loaded into a model whose classifier was replaced afterwards."""
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    new = tuple(name for name in sizes if name.startswith(heads))
    missing = (*(name for name in report.missing if not name.startswith(heads)), *new)
    mismatched = tuple(name for name in report.mismatched if not name.startswith(heads))
    loaded = sum(size for name, size in sizes.items() if name not in {*missing, *mismatched})
    return replace(report, loaded=loaded, total=sum(sizes.values()), missing=missing, mismatched=mismatched)


def find_part(
    part: nn.Module, name: str, content: Mapping[str, Any], source: str, *, strict: bool = True
) -> dict[str, StateDict]:
    """Return what a checkpoint holds for a part that was added to a library's model, by entry; nothing is loaded.

    Parameters
    ----------
    part
        The part; its tensors have names below `name`, whatever is before that.
    name
        Of the part, such as ``"pyramid"``.
    content, source
        As in `load_checkpoint`.
    strict
        Refuse an entry that has only some of the part, or some in another shape.

    Raises
    ------
    WeightsMismatchError
        If `strict` and that is so.
    """
    own = {f"{name}.{key}": value for key, value in part.state_dict().items()}
    found: dict[str, StateDict] = {}
    for entry, state in _state_dicts(content):
        match = _match(state, own, entry)
        if not match.named:
            continue
        report = match.report(own, source, Rules())
        if strict and len(match.fitting) < len(own):
            report = replace(report, unexpected=tuple(key for key in report.unexpected if f"{name}." in key))
            raise WeightsMismatchError(_mismatch(part, match, own, report))
        found[entry] = {key.removeprefix(f"{name}."): state[place] for key, place in match.fitting.items()}
    return found


def load_part(part: nn.Module, name: str, found: Mapping[str, StateDict], report: WeightsReport) -> WeightsReport:
    """Load what `find_part` found beside what was loaded into the model, and return what there is to say of both."""
    values = found.get(report.entry, {})
    part.load_state_dict(values, strict=False)
    own = part.state_dict()
    return replace(
        report,
        loaded=report.loaded + sum(own[key].numel() for key in values),
        total=report.total + sum(value.numel() for value in own.values()),
        missing=(*report.missing, *(f"{name}.{key}" for key in own if key not in values)),
        unexpected=tuple(key for key in report.unexpected if f"{name}." not in key),
        nonfinite=(*report.nonfinite, *(f"{name}.{key}" for key in values if not _is_finite(own[key]))),
    )


@dataclass(frozen=True)
class _Match:
    """How a state dict fits a model: which of its keys is which of the model's names, once a prefix is stripped."""

    entry: str
    state: StateDict
    prefix: str
    named: dict[str, str]  # the model's names -> keys, whatever the shape
    fitting: dict[str, str]  # ... of those with the shape and kind of number of the model's
    rest: tuple[str, ...]  # what was there besides, without the prefix
    unconverted: StateDict | None = None  # what the state dict was, if a converter made this one

    @property
    def source(self) -> StateDict:
        """The state dict of the checkpoint."""
        return self.state if self.unconverted is None else self.unconverted

    def rank(self, own: StateDict, rules: Rules) -> tuple[int, ...]:
        """Return what makes one match better than another, the most telling first."""
        unfilled = sum(name not in self.fitting and not name.startswith(rules.optional) for name in own)
        preference = _preference(f"{self.entry}.{self.prefix}")
        return -unfilled, -len(self.surplus(own, rules)), len(self.fitting), len(self.named), preference

    def unexpected(self, rules: Rules) -> tuple[str, ...]:
        return tuple(name for name in self.rest if not name.startswith(rules.optional + rules.known))

    def surplus(self, own: StateDict, rules: Rules) -> tuple[str, ...]:
        """Return what the checkpoint has in the model's own layers, and the model has not: a deeper network's."""
        tops = {name.partition(".")[0] for name in own if "." in name}
        return tuple(name for name in self.unexpected(rules) if "." in name and name.partition(".")[0] in tops)

    def report(self, own: StateDict, source: str, rules: Rules) -> WeightsReport:
        return WeightsReport(
            source=source,
            entry=self.entry,
            prefix=self.prefix,
            converted=self.unconverted is not None,
            loaded=sum(own[name].numel() for name in self.fitting),
            total=sum(t.numel() for t in own.values()),
            missing=tuple(name for name in own if name not in self.named and not name.endswith(COUNTER)),
            unexpected=self.unexpected(rules),
            mismatched=tuple(name for name in self.named if name not in self.fitting),
        )


def _match(state: StateDict, own: StateDict, entry: str) -> _Match:
    """Match by the prefix that leaves the most of the model's names."""
    fits: Counter[str] = Counter()
    for key, value in state.items():
        for start in [0, *(i + 1 for i, c in enumerate(key) if c == ".")]:
            name = key[start:]
            if name in own:
                fits[key[:start]] += 1 + _fits(value, own[name])
    prefixes = sorted(fits, key=lambda p: (-fits[p], -_preference(p), len(p))) or [""]
    best, *others = (_match_below(p, state, own, entry) for p in prefixes[:2])
    for other in others:
        if fits[prefixes[0]] == fits[prefixes[1]] and _preference(prefixes[0]) == _preference(prefixes[1]):
            _check_same(best, other, own)
    return best


def _match_below(prefix: str, state: StateDict, own: StateDict, entry: str) -> _Match:
    named = {name: prefix + name for name in own if prefix + name in state}
    fitting = {name: key for name, key in named.items() if _fits(state[key], own[name])}
    taken = set(named.values())
    rest = tuple(key.removeprefix(prefix) for key in state if key not in taken)
    return _Match(entry, state, prefix, named, fitting, rest)


def _check_same(one: _Match, other: _Match, own: StateDict) -> None:
    """Refuse to choose between two networks that fit equally well; one network under two names is no choice."""
    if 2 * len(one.fitting) <= len(own):
        return  # neither is the network: some names are alike
    same = one.fitting.keys() == other.fitting.keys() and all(
        torch.equal(one.state[key], other.state[other.fitting[name]]) for name, key in one.fitting.items()
    )
    if not same:
        places = [f"entry {m.entry!r}, prefix {m.prefix!r}" for m in (one, other)]
        msg = (
            f"The checkpoint holds several networks that fit equally well ({'; '.join(places)}). Nothing was loaded; "
            "save the state dict of the one that you mean."
        )
        raise WeightsMismatchError(msg)


def _converted(match: _Match, own: StateDict, rules: Rules) -> Iterator[_Match]:
    """Match what the converters make of a state dict, below the prefixes that its names share."""
    if not any(value.is_floating_point() for value in match.state.values()):
        return  # a library would turn whole numbers into weights
    for prefix in dict.fromkeys([match.prefix, *_shared_prefixes(match.state)]):
        stripped = {k.removeprefix(prefix): v for k, v in match.state.items() if k.startswith(prefix)}
        for convert in rules.converters:
            state = convert(stripped, own)
            if state is not None:
                found = _match_below("", state, own, match.entry)
                outside = (k for k in match.state if not k.startswith(prefix))  # what was not given to it
                if found.fitting:
                    yield replace(found, prefix=prefix, rest=(*found.rest, *outside), unconverted=match.state)


def _shared_prefixes(state: StateDict) -> list[str]:
    """Return the empty prefix, and the ones that most names begin with, growing."""
    prefixes = [""]
    while True:
        heads = Counter(k[len(prefixes[-1]) :].partition(".")[0] for k in state if k.startswith(prefixes[-1]))
        head, count = heads.most_common(1)[0]
        grown = f"{prefixes[-1]}{head}."
        if count < 0.8 * len(state) or not any(k.startswith(grown) for k in state):
            return prefixes
        prefixes.append(grown)


def _state_dicts(content: Mapping[Any, Any], entry: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """Find the mappings of names to tensors, at the top or nested."""
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if any(_is_plain(v) for v in tensors.values()):
        yield entry, {k: v for k, v in tensors.items() if _is_plain(v)}
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and depth < 4:
            yield from _state_dicts(value, f"{entry}.{key}" if entry else key, depth + 1)


def _mismatch(model: nn.Module, best: _Match, own: StateDict, report: WeightsReport) -> str:
    faults = []
    if report.missing:
        faults.append(f"{len(report.missing)} missing (first {report.missing[0]!r})")
    if report.mismatched:
        first = report.mismatched[0]
        given = best.state[best.named[first]]
        shapes = f"{tuple(given.shape)} for {tuple(own[first].shape)}"
        if given.shape == own[first].shape:
            shapes = f"{given.dtype} for {own[first].dtype}"
        faults.append(f"{len(report.mismatched)} of another shape or kind (first {first!r}: {shapes})")
    if report.unexpected:
        faults.append(f"{len(report.unexpected)} unexpected (first {report.unexpected[0]!r})")
    entry = f" in its entry {best.entry!r}" if best.entry else ""
    prefix = f" below the prefix {best.prefix!r}" if best.prefix else ""
    return (
        f"The weights in {report.source!r} are not those of this {type(model).__name__}: of its {len(own)} tensors and "
        f"the file's {len(best.source)}{entry}{prefix}, {'; '.join(faults)}. Nothing was loaded; check the model name, "
        "in_chans and img_size, or take what fits with load_weights(model, source, strict=False)."
    )


def _preference(place: str) -> int:
    """Return how much the words of an entry or prefix speak for it, among several that fit equally well."""
    words = set(re.split("[^a-z]+", place.lower()))
    return bool(words & _PREFERRED) - bool(words & _AVOIDED)


def _fits(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point()


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta and not value.is_quantized


def _is_finite(value: Tensor) -> bool:
    """Whether there is no NaN or infinity: a sum shows either, and may overflow."""
    if value.is_floating_point() and value.itemsize == 1:
        value = value.float()  # torch has no sums of eight bits
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())
