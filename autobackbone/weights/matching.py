"""Matching: which state dict of a checkpoint fits a model, below which prefix, and under whose names."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from autobackbone.errors import WeightsMismatchError
from autobackbone.weights.kinds import fits, is_code, is_equal, is_plain, kind_of
from autobackbone.weights.rules import COUNTER, CheckpointRules, StateDict

# Of several networks that fit equally well, averaged weights come first, as in timm, and a student's teacher.
_PREFERRED = {"ema", "teacher", "averaged", "average", "avg", "swa"}
# What optimizers keep by the names of parameters, and what training started from.
_AVOIDED = {"exp", "grad", "grads", "init", "initial", "momentum", "optim", "optimizer"}
# Names of the tensors that turn the codes of a quantized tensor back into numbers.
_SCALES = re.compile(r"scale|absmax|zero_?point|qzeros|^SCB$|quant", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """How a state dict fits a model: which of its keys is which of the model's names, once a prefix is stripped.

    Attributes
    ----------
    entry
        Place of the state dict in the checkpoint.
    state
        The tensors, by key.
    prefix
        What was stripped from the keys.
    matched
        The model's names to keys, even where shapes differ.
    loadable
        The part of `matched` whose tensors have the shape and the kind of number of the model's.
    unmatched
        Names of the model that no tensor fits, without classifiers and counters of batches.
    leftover
        Other names below the prefix, without it.
    outside
        Keys that are not below the prefix.
    surplus
        The part of `leftover` that a larger model of the same kind would have: a deeper network's layers.
    covered
        Number of the model's names in `matched`, without classifiers and counters of batches.
    unconverted
        The state dict before conversion; ``None`` if `state` was not converted.
    """

    entry: str
    state: StateDict
    prefix: str
    matched: dict[str, str]
    loadable: dict[str, str]
    unmatched: tuple[str, ...]
    leftover: tuple[str, ...]
    outside: tuple[str, ...]
    surplus: tuple[str, ...]
    covered: int
    unconverted: StateDict | None = None

    @property
    def original(self) -> StateDict:
        """The state dict as it stands in the checkpoint."""
        return self.state if self.unconverted is None else self.unconverted

    @property
    def is_complete(self) -> bool:
        """Whether it has every tensor of the model, and is not a larger network's."""
        return not self.unmatched and not self.surplus

    @property
    def rank(self) -> tuple[int, ...]:
        """What makes one match better than another. The most telling number comes first."""
        preference = _preference(f"{self.entry}.{self.prefix}")
        return -len(self.unmatched), self.covered, -len(self.surplus), preference

    @property
    def sort_key(self) -> tuple[int, ...]:
        """The order of matches. Those of equal rank are one network under several names."""
        return *self.rank, len(self.loadable), self.unconverted is None, -len(self.prefix)

    def unexpected(self, rules: CheckpointRules) -> tuple[str, ...]:
        """Return the names that the model has no place for, without heads and pruned layers."""
        return (*(name for name in self.leftover if not _is_expected(name, rules)), *self.outside)


def best_match(
    content: Mapping[str, Any], model: nn.Module, target: StateDict, rules: CheckpointRules, *, strict: bool = True
) -> Match | None:
    """Return the best match of a model in a checkpoint; ``None`` if the checkpoint has no tensors by name.

    Every state dict is tried below every prefix, by name and through the converters.

    Parameters
    ----------
    content
        A state dict, or mappings that contain some.
    model
        The model to be loaded.
    target
        Its state dict.
    rules
        What is particular to it.
    strict
        Whether only a network with every tensor will be loaded.

    Raises
    ------
    WeightsMismatchError
        If several different networks fit equally well, or if the only ones cannot be converted.
    """
    matcher = _Matcher(model, target, rules)
    matches: list[Match] = []
    for entry, state in state_dicts(content):
        by_name = list(matcher.by_name(state, entry))
        complete = [match.prefix for match in by_name if match.is_complete]
        matches += by_name + list(matcher.converted(state, entry, complete))
    if not matches:
        return None
    matches.sort(key=lambda match: match.sort_key, reverse=True)
    best, *others = matches
    if matcher.faults and not best.is_complete:
        raise matcher.faults[0]
    for other in others:
        if other.rank == best.rank:
            _check_same(best, other, len(target) // 2 if strict else 0)
    return best


def state_dicts(content: Mapping[Any, Any], entry: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """Yield the mappings of names to tensors, at the top or nested, each with its place."""
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if any(is_plain(v) for v in tensors.values()):
        yield entry, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and depth < 4:
            yield from state_dicts(value, f"{entry}.{key}" if entry else key, depth + 1)


def quantized_key(match: Match, target: StateDict, rules: CheckpointRules) -> str | None:
    """Return the key of a tensor that holds codes of a quantized format; ``None`` if there is none.

    Codes are integers of at most 8 bits in the place of numbers, and tensors with a scale beside them that is no tensor
    of the model: ``weight`` and ``weight_scale``, ``weight_scale_inv``, ``weight.absmax``, ``SCB`` ...
    """
    below = {key: value for key, value in match.original.items() if key.startswith(match.prefix)}
    matched, loadable = set(match.matched.values()), set(match.loadable.values())
    weights = {match.prefix + name for name in (*target, *rules.pruned_names)} | matched
    scales: dict[str, list[str]] = {}
    for key in below:
        parent, _, last = key.rpartition(".")
        if key not in weights and _SCALES.search(last):
            scales.setdefault(parent, []).append(key)
    for key, value in below.items():
        if value.is_quantized:
            return key
        if is_code(value) and key not in loadable and (key in matched or (match.unmatched and value.ndim > 1)):
            return key
        beside = scales.get(key.rpartition(".")[0], ())
        if value.itemsize == 1 and value.is_floating_point() and beside:
            return key
        if key in scales or any(scale.startswith(f"{key}_") for scale in beside):
            return key
    return None


class _Matcher:
    """Matches state dicts to one model."""

    def __init__(self, model: nn.Module, target: StateDict, rules: CheckpointRules) -> None:
        self.target = target
        self.rules = rules
        self.model = model
        self.faults: list[WeightsMismatchError] = []  # of networks that cannot be converted

    def by_name(self, state: StateDict, entry: str) -> Iterator[Match]:
        """Match below the prefixes that leave the most of the model's names."""
        counts: Counter[str] = Counter()
        for key, value in state.items():
            for start in [0, *(i + 1 for i, c in enumerate(key) if c == ".")]:
                name = key[start:]
                if name in self.target:
                    counts[key[:start]] += 1 + fits(value, self.target[name])
        most = max(counts.values(), default=0)
        for prefix in [p for p, count in counts.items() if 2 * count > most] or [""]:
            yield match_below(prefix, state, self.target, entry, self.rules, self.model)

    def converted(self, state: StateDict, entry: str, complete: Sequence[str]) -> Iterator[Match]:
        """Match converted state dicts, one below each prefix with enough tensors for a network.

        Networks below the prefixes in `complete` need no conversion.
        """
        done = list(complete)
        for prefix in self._roots(state, entry):
            if any(prefix.startswith(other) or other.startswith(prefix) for other in done):
                continue  # of this network
            below = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            numbers = {k: v for k, v in below.items() if self._is_convertible(k, v)}
            if not any(v.is_floating_point() for v in numbers.values()):
                continue
            others = {k: v for k, v in below.items() if k not in numbers}
            outside = tuple(k for k in state if not k.startswith(prefix))
            for convert in self.rules.converters:
                try:
                    converted = convert(numbers, self.target)
                except WeightsMismatchError as err:  # another network may do
                    self.faults.append(err)
                    continue
                if converted is None:
                    continue
                match = match_below("", {**others, **converted}, self.target, entry, self.rules, self.model)
                if match.loadable:
                    yield replace(match, prefix=prefix, outside=outside, unconverted=state)
                    if match.is_complete:
                        done.append(prefix)

    def _is_convertible(self, key: str, value: Tensor) -> bool:
        """Whether a converter may see a tensor. Libraries make numbers of anything that they are given."""
        if not is_plain(value) or value.is_complex() or is_code(value):
            return False
        return not key.endswith(COUNTER) or kind_of(value) == "integer"

    def _roots(self, state: StateDict, entry: str) -> list[str]:
        """Return the prefixes below which there may be a network: the likeliest by its names first, then from the top.

        It has at least half as many tensors as the model, and a fifth of those that there are.
        """
        enough = max(len(self.target) / 2, len(state) / 5)
        roots = [""]
        for root in roots:  # which grows
            heads = Counter(_head(k, root) for k in state if k.startswith(root))
            roots += [f"{root}{head}." for head, n in heads.items() if n >= enough and f"{root}{head}" not in state]
        lists = {root for root in roots if root and all(_head(k, root).isdigit() for k in state if k.startswith(root))}
        best = max(self.by_name(state, entry), key=lambda match: match.sort_key)
        return list(dict.fromkeys([best.prefix, *(root for root in roots if root not in lists)]))


def _head(key: str, prefix: str) -> str:
    """Return what follows a prefix in a key, up to the next dot."""
    return key[len(prefix) :].partition(".")[0]


def match_below(
    prefix: str, state: StateDict, target: StateDict, entry: str, rules: CheckpointRules, model: nn.Module | None = None
) -> Match:
    """Match the part of a state dict below a prefix to a model, by name."""
    matched = {name: prefix + name for name in target if prefix + name in state}
    loadable = {name: key for name, key in matched.items() if fits(state[key], target[name])}
    keys = set(matched.values())
    leftover = tuple(k.removeprefix(prefix) for k in state if k.startswith(prefix) and k not in keys)
    tops = {name.partition(".")[0] for name in target if "." in name}

    def is_larger(name: str) -> bool:
        """Whether a larger network of the model's kind has a tensor of this name: in its layers, or as a token."""
        top, dot, _ = name.partition(".")
        # libraries keep the place of a token or table that is not there
        return top in tops if dot else getattr(model, name, "") is None

    due = [n for n in target if not n.startswith(rules.head_prefixes) and (n in matched or not n.endswith(COUNTER))]
    return Match(
        entry=entry,
        state=state,
        prefix=prefix,
        matched=matched,
        loadable=loadable,
        unmatched=tuple(n for n in due if n not in loadable),
        leftover=leftover,
        outside=tuple(key for key in state if not key.startswith(prefix)),
        surplus=tuple(n for n in leftover if not _is_expected(n, rules) and is_larger(n)),
        covered=sum(n in matched and not n.endswith(COUNTER) for n in due),
    )


def _is_expected(name: str, rules: CheckpointRules) -> bool:
    """Whether a checkpoint may have a name that the model has no place for: of its head, or of a pruned layer."""
    return name.startswith(rules.head_prefixes) or name in rules.pruned_names


def _check_same(one: Match, other: Match, least: int) -> None:
    """Refuse to choose between two networks that fit equally well. One network under two names is no choice."""
    if len(one.loadable) <= least:
        return  # neither is the network: some names are alike
    both = one.loadable.keys() & other.loadable.keys()
    pairs = ((one.state[one.loadable[n]], other.state[other.loadable[n]]) for n in both if not n.endswith(COUNTER))
    if not all(is_equal(a, b) for a, b in pairs):
        places = [f"entry {m.entry!r}, prefix {m.prefix!r}" for m in (one, other)]
        msg = (
            f"The checkpoint holds several networks that fit equally well ({'; '.join(places)}). Nothing was loaded; "
            "save the state dict of the one that you mean."
        )
        raise WeightsMismatchError(msg)


def _preference(place: str) -> int:
    """Return how much the words of an entry or prefix speak for it, among several that fit equally well."""
    words = set(re.split("[^a-z]+", place.lower()))
    return -1 if words & _AVOIDED else int(bool(words & _PREFERRED))
