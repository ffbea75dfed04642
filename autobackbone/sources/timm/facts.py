"""Facts about an architecture of timm, as values and as the catalogue holds them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autobackbone.levels import NativeLevel

_DEFAULTS = {
    "square": False,
    "knobs": {},
    "output_fmt": "NCHW",
    "norm_channels": 0,
    "branches": False,
    "any_channels": True,
    "pooled_divisor": 0,
    "pooled_min_size": 0,
}


@dataclass(frozen=True)
class TimmFacts:
    """What was measured of an architecture.

    Attributes
    ----------
    levels
        Every native level, by index.
    min_size
        Smallest height and width in pixels of the levels that are not bound to one size; 0 if all are.
    square
        Whether the one size that it is built for must be a square.
    knobs
        Arguments that make timm accept any size.
    output_fmt
        What the intermediates are asked for in: ``"NCHW"``, or ``"NLC"`` where timm's own reshape needs data.
    norm_channels
        Channels of the maps after the final norm that they can be taken through; 0 if there is none.
    branches
        Whether a parameter can be without a gradient, depending on the levels taken.
    any_channels
        Whether it takes images of any number of channels, and not only of that of its published weights.
    pooled_divisor
        What height and width must be multiples of in the pooled form; 0 if it is what the deepest level says.
    pooled_min_size
        Smallest height and width in pixels of the pooled form; 0 if it is that of the levels, in multiples.
    """

    levels: tuple[NativeLevel, ...]
    min_size: int
    square: bool
    knobs: dict[str, bool]
    output_fmt: str
    norm_channels: int
    branches: bool
    any_channels: bool
    pooled_divisor: int
    pooled_min_size: int


def encode(facts: TimmFacts) -> dict[str, Any]:
    """Return `facts` as JSON values; consecutive levels that are alike share one row."""
    values = asdict(facts) | {"levels": encode_levels(facts.levels)}
    return {k: v for k, v in values.items() if k not in _DEFAULTS or v != _DEFAULTS[k]}


def decode(values: Mapping[str, Any]) -> TimmFacts:
    """Invert `encode`; other values are ignored."""
    optional = {name: values.get(name, default) for name, default in _DEFAULTS.items()}
    return TimmFacts(levels=decode_levels(values["levels"]), min_size=values["min_size"], **optional)


def encode_levels(levels: tuple[NativeLevel, ...]) -> list[list[Any]]:
    """Return levels as JSON values: how many are alike, and what they are."""
    rows: list[list[Any]] = []
    for level in levels:
        pattern = ".".join("{}" if p == str(level.index) else p for p in level.module.split("."))
        row = [level.channels, level.stride, level.divisor, int(level.bound), int(level.exact), pattern]
        if rows and rows[-1][1:] == row:
            rows[-1][0] += 1
        else:
            rows.append([1, *row])
    return rows


def decode_levels(rows: list[list[Any]]) -> tuple[NativeLevel, ...]:
    """Invert `encode_levels`."""
    levels: list[NativeLevel] = []
    for count, channels, stride, divisor, bound, exact, pattern in rows:
        for _ in range(count):
            i = len(levels)
            levels.append(NativeLevel(i, channels, stride, divisor, bool(bound), bool(exact), pattern.format(i)))
    return tuple(levels)
