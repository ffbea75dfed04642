"""Matching: which state dict of a checkpoint fits a model, below which prefix, and in whose names."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from autobackbone.errors import WeightsMismatchError
from autobackbone.weights.kinds import fits, is_code, is_equal, is_plain, kind_of

# Of several networks that fit equally well: averaged weights first, as timm does, and what a student learned from.
_PREFERRED = {"ema", "teacher", "averaged", "average", "avg", "swa"}
# What optimizers keep by the names of parameters, and what training started from.
_AVOIDED = {"exp", "grad", "grads", "init", "initial", "momentum", "optim", "optimizer"}
# What stands beside the codes of a quantized tensor, so that they can be turned into numbers.
_SCALES = re.compile(r"scale|absmax|zero_?point|qzeros|^SCB$|quant", re.IGNORECASE)
# Counts batches for batch norms without momentum; checkpoints from before it was there do without.
COUNTER = "num_batches_tracked"
StateDict = Mapping[str, Tensor]
Converter = Callable[[StateDict, StateDict], StateDict | None]


@dataclass(frozen=True)
class Rules:
    """What is particular to a model when checkpoints are matched to it.

    Attributes
    ----------
    optional
        What the names of classifiers begin with: a checkpoint may be without them, and the model as well.
    known
        Names of tensors that a checkpoint may have and the model was made without.
    converters
        Tried in order where names or shapes differ: a state dict, and the model's own, to one in the names and shapes
        of the model, what there is no place for included; or to ``None`` if it is not of the kind that it knows.
    build
        Builds the network once more, without weights, as its own code initializes it; ``None`` if that is not known.
    """

    optional: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()
    converters: tuple[Converter, ...] = ()
    build: Callable[[], nn.Module] | None = None


@dataclass(frozen=True)
class Match:
    """How a state dict fits a model: which of its keys is which of the model's names, once a prefix is stripped.

    Attributes
    ----------
    entry
        Where in the checkpoint the state dict is.
    state
        The tensors, by key.
    prefix
        What was stripped from the keys.
    named
        The model's names to keys, whatever the shape.
    fitting
        Those of `named` with the shape and the kind of number of the model's.
    rest
        What there is besides below the prefix, without it.
    outside
        Keys that are not below the prefix.
    surplus
        Those of `rest` that the model's own layers would have if it were larger: a deeper network's.
    unfilled
        Names of the model that nothing fits, classifiers and counters of batches aside.
    covered
        How many names of the model there are, whatever the shape, classifiers and counters of batches aside.
    unconverted
        What the state dict was, if a converter made this one.
    """

    entry: str
    state: StateDict
    prefix: str
    named: dict[str, str]
    fitting: dict[str, str]
    rest: tuple[str, ...]
    outside: tuple[str, ...]
    surplus: tuple[str, ...]
    unfilled: tuple[str, ...]
    covered: int
    unconverted: StateDict | None = None

    @property
    def source(self) -> StateDict:
        """The state dict of the checkpoint."""
        return self.state if self.unconverted is None else self.unconverted

    @property
    def is_complete(self) -> bool:
        """Whether it has every tensor of the model, and is not a larger network's."""
        return not self.unfilled and not self.surplus

    @property
    def standing(self) -> tuple[int, ...]:
        """What makes one match better than another, the most telling first."""
        preference = _preference(f"{self.entry}.{self.prefix}")
        return -len(self.unfilled), self.covered, -len(self.surplus), preference

    @property
    def _order(self) -> tuple[int, ...]:
        """What comes first of matches with the same standing, which are then one network under several names."""
        return *self.standing, len(self.fitting), self.unconverted is None, -len(self.prefix)

    def unexpected(self, rules: Rules) -> tuple[str, ...]:
        """Return the names that the model has no place for, those that are known aside."""
        rest = (name for name in self.rest if not name.startswith(rules.optional) and name not in rules.known)
        return (*rest, *self.outside)


def best_match(
    content: Mapping[str, Any], model: nn.Module, own: StateDict, rules: Rules, *, strict: bool = True
) -> Match | None:
    """Return how the network in a checkpoint that fits a model best does; ``None`` if there are no tensors by name.

    Every state dict is tried below every prefix, by name and through the converters.

    Parameters
    ----------
    content
        What a checkpoint holds: a state dict, or mappings that hold some.
    model
        What is to be loaded.
    own
        Its state dict.
    rules
        What is particular to it.
    strict
        Only a network that has every tensor is to be loaded.

    Raises
    ------
    WeightsMismatchError
        If several networks fit equally well, and are not the same; or if the only ones cannot be converted.
    """
    matcher = _Matcher(model, own, rules)
    matches: list[Match] = []
    for entry, state in state_dicts(content):
        by_name = list(matcher.by_name(state, entry))
        complete = [match.prefix for match in by_name if match.is_complete]
        matches += by_name + list(matcher.converted(state, entry, complete))
    if not matches:
        return None
    matches.sort(key=lambda match: match._order, reverse=True)  # noqa: SLF001
    best, *others = matches
    if matcher.faults and not best.is_complete:
        raise matcher.faults[0]
    for other in others:
        if other.standing == best.standing:
            _check_same(best, other, len(own) // 2 if strict else 0)
    return best


def state_dicts(content: Mapping[Any, Any], entry: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """Find the mappings of names to tensors, at the top or nested, with the place of each."""
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if any(is_plain(v) for v in tensors.values()):
        yield entry, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and depth < 4:
            yield from state_dicts(value, f"{entry}.{key}" if entry else key, depth + 1)


def quantized(match: Match, own: StateDict, rules: Rules) -> str | None:
    """Return the key of a tensor whose values are the codes of a quantized format; ``None`` if there is none.

    Codes are integers of at most 8 bits in the place of numbers, and whatever has a scale beside it that is no tensor
    of the model's: ``weight`` and ``weight_scale``, ``weight_scale_inv``, ``weight.absmax``, ``SCB`` ...
    """
    keys = {key: value for key, value in match.source.items() if key.startswith(match.prefix)}
    places = {match.prefix + name for name in (*own, *rules.known)} | set(match.named.values())
    named, fitting = set(match.named.values()), set(match.fitting.values())
    scales: dict[str, list[str]] = {}
    for key in keys:
        parent, _, last = key.rpartition(".")
        if key not in places and _SCALES.search(last):
            scales.setdefault(parent, []).append(key)
    for key, value in keys.items():
        if value.is_quantized:
            return key
        if is_code(value) and key not in fitting and (key in named or (match.unfilled and value.ndim > 1)):
            return key
        beside = scales.get(key.rpartition(".")[0], ())
        if value.itemsize == 1 and value.is_floating_point() and beside:
            return key
        if key in scales or any(scale.startswith(f"{key}_") for scale in beside):
            return key
    return None


class _Matcher:
    """Matches state dicts to one model."""

    def __init__(self, model: nn.Module, own: StateDict, rules: Rules) -> None:
        self.own = own
        self.rules = rules
        self.model = model
        self.faults: list[WeightsMismatchError] = []  # of networks that cannot be converted

    def by_name(self, state: StateDict, entry: str) -> Iterator[Match]:
        """Match below the prefixes that leave the most of the model's names."""
        counts: Counter[str] = Counter()
        for key, value in state.items():
            for start in [0, *(i + 1 for i, c in enumerate(key) if c == ".")]:
                name = key[start:]
                if name in self.own:
                    counts[key[:start]] += 1 + fits(value, self.own[name])
        most = max(counts.values(), default=0)
        for prefix in [p for p, count in counts.items() if 2 * count > most] or [""]:
            yield match_below(prefix, state, self.own, entry, self.rules, self.model)

    def converted(self, state: StateDict, entry: str, complete: Sequence[str]) -> Iterator[Match]:
        """Match what the converters make of a state dict, below each prefix where there is enough for a network.

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
            left = {k: v for k, v in below.items() if k not in numbers}
            outside = tuple(k for k in state if not k.startswith(prefix))
            for convert in self.rules.converters:
                try:
                    made = convert(numbers, self.own)
                except WeightsMismatchError as err:  # another network may do
                    self.faults.append(err)
                    continue
                if made is None:
                    continue
                found = match_below("", {**left, **made}, self.own, entry, self.rules, self.model)
                if found.fitting:
                    yield replace(found, prefix=prefix, outside=outside, unconverted=state)
                    if found.is_complete:
                        done.append(prefix)

    def _is_convertible(self, key: str, value: Tensor) -> bool:
        """Whether a converter may see a tensor: libraries make numbers of anything that they are given."""
        if not is_plain(value) or value.is_complex() or is_code(value):
            return False
        return not key.endswith(COUNTER) or kind_of(value) == "integer"

    def _roots(self, state: StateDict, entry: str) -> list[str]:
        """Return the prefixes below which there may be a network: the likeliest by its names first, then from the top.

        It has at least half as many tensors as the model, and a fifth of those that there are.
        """
        enough = max(len(self.own) / 2, len(state) / 5)
        roots = [""]
        for root in roots:  # which grows
            heads = Counter(_head(k, root) for k in state if k.startswith(root))
            roots += [f"{root}{head}." for head, n in heads.items() if n >= enough and f"{root}{head}" not in state]
        lists = {root for root in roots if root and all(_head(k, root).isdigit() for k in state if k.startswith(root))}
        best = max(self.by_name(state, entry), key=lambda match: match._order)  # noqa: SLF001
        return list(dict.fromkeys([best.prefix, *(root for root in roots if root not in lists)]))


def _head(key: str, prefix: str) -> str:
    """Return what follows a prefix in a key, up to the next dot."""
    return key[len(prefix) :].partition(".")[0]


def match_below(
    prefix: str, state: StateDict, own: StateDict, entry: str, rules: Rules, model: nn.Module | None = None
) -> Match:
    """Match what a state dict has below a prefix to a model, by name."""
    named = {name: prefix + name for name in own if prefix + name in state}
    fitting = {name: key for name, key in named.items() if fits(state[key], own[name])}
    taken = set(named.values())
    rest = tuple(k.removeprefix(prefix) for k in state if k.startswith(prefix) and k not in taken)
    tops = {name.partition(".")[0] for name in own if "." in name}

    def is_larger(name: str) -> bool:
        """Whether a name is one that a larger network of the model's kind has: in its layers, or a token of its own."""
        top, dot, _ = name.partition(".")
        # libraries keep the place of a token or table that is not there
        return top in tops if dot else getattr(model, name, "") is None

    due = [n for n in own if not n.startswith(rules.optional) and (n in named or not n.endswith(COUNTER))]
    return Match(
        entry=entry,
        state=state,
        prefix=prefix,
        named=named,
        fitting=fitting,
        rest=rest,
        outside=tuple(key for key in state if not key.startswith(prefix)),
        surplus=tuple(n for n in rest if not n.startswith(rules.optional) and n not in rules.known and is_larger(n)),
        unfilled=tuple(n for n in due if n not in fitting),
        covered=sum(n in named and not n.endswith(COUNTER) for n in due),
    )


def _check_same(one: Match, other: Match, least: int) -> None:
    """Refuse to choose between two networks that fit equally well; one network under two names is no choice."""
    if len(one.fitting) <= least:
        return  # neither is the network: some names are alike
    both = one.fitting.keys() & other.fitting.keys()
    pairs = ((one.state[one.fitting[n]], other.state[other.fitting[n]]) for n in both if not n.endswith(COUNTER))
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
