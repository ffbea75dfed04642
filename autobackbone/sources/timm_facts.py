"""Facts about timm's architectures: shipped as data for the timm released against, measured for any other."""

import functools
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import timm
import torch

from autobackbone.levels import NativeLevel
from autobackbone.sources.timm_measure import TimmFacts, measure

FACTS_FILE = "timm_facts.json"


def timm_version() -> str:
    """Return the version of the installed timm."""
    return str(timm.__version__)


def facts_of(architecture: str) -> TimmFacts:
    """Look up the facts of an architecture in its plain form; measure them if the installed timm is another."""
    shipped = _shipped().get(architecture)
    return _measured(architecture) if shipped is None else decode(shipped)


@functools.cache
def _shipped() -> dict[str, dict[str, Any]]:
    data = json.loads(files(__package__).joinpath(FACTS_FILE).read_text(encoding="utf-8"))
    return data["architectures"] if data["timm"] == timm_version() else {}


@functools.cache
def _measured(architecture: str) -> TimmFacts:
    return measure(functools.partial(timm.create_model, architecture, num_classes=0))


def encode(facts: TimmFacts) -> dict[str, Any]:
    """Return `facts` as JSON values; consecutive levels that are alike share one row."""
    rows: list[list[Any]] = []
    for level in facts.levels:
        pattern = ".".join("{}" if p == str(level.index) else p for p in level.module.split("."))
        row = [level.channels, level.stride, level.divisor, int(level.bound), int(level.exact), pattern]
        if rows and rows[-1][1:] == row:
            rows[-1][0] += 1
        else:
            rows.append([1, *row])
    values = asdict(facts) | {"levels": rows}
    defaults = {"square": False, "knobs": {}, "output_fmt": "NCHW", "norm_channels": 0, "branches": False}
    return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}


def decode(values: Mapping[str, Any]) -> TimmFacts:
    """Invert `encode`."""
    levels: list[NativeLevel] = []
    for count, channels, stride, divisor, bound, exact, pattern in values["levels"]:
        for _ in range(count):
            i = len(levels)
            levels.append(NativeLevel(i, channels, stride, divisor, bool(bound), bool(exact), pattern.format(i)))
    return TimmFacts(
        levels=tuple(levels),
        min_size=values["min_size"],
        square=values.get("square", False),
        knobs=values.get("knobs", {}),
        output_fmt=values.get("output_fmt", "NCHW"),
        norm_channels=values.get("norm_channels", 0),
        branches=values.get("branches", False),
    )


def measure_all(names: Iterable[str], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure architectures of the registry in parallel processes; yields names and encoded facts as they come."""
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,), maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(_measure_named, names)


def _measure_named(name: str) -> tuple[str, dict[str, Any]]:
    return name, encode(_measured(name))
