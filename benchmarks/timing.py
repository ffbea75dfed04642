"""Time, side by side: calls in turn, many times, and the median of the ratios of neighboring measurements.

On a CPU a measurement is one of ``torch.utils.benchmark.Timer``, which warms up before each; on a GPU it lies between
two CUDA events.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils.benchmark import Timer

T = TypeVar("T")
Call = Callable[[], object]
Stopwatch = Callable[[], float]
"""Measures once; returns seconds."""

SECONDS = 0.1  # that a measurement takes at least, warming up not counted


@dataclass(frozen=True)
class Spread:
    """What repeated measurements gave: their median and quartiles, and how many there were."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of values, of which there is at least one."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(median, low, high, len(values))


def seconds(call: Call) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure every side once a round. Every other round goes backwards, so that no side gains by its place."""
    measured: dict[str, list[T]] = {name: [] for name in sides}
    for i in range(rounds):
        for name in reversed(sides) if i % 2 else sides:
            measured[name].append(sides[name]())
    return measured


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the spread of the ratios of neighboring measurements, which are at the same places of both."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def stopwatch(call: Call, device: str = "cpu", timer: Stopwatch | None = None) -> Stopwatch:
    """Return what measures a call, after trying it; `timer` is the clock on a CPU, torch's own by default."""
    call()
    if device == "cuda":
        measure = _between_events(call)
    else:
        clock = {} if timer is None else {"timer": timer}
        timed = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads(), **clock)

        def measure(number: int) -> float:
            return float(timed.timeit(number).mean)

    number = max(1, math.ceil(SECONDS / max(measure(1), 1e-6)))
    return lambda: measure(number)


def _between_events(call: Call) -> Callable[[int], float]:
    """Return what measures the mean of a number of calls on a GPU, from an idle GPU to an idle GPU."""

    def measure(number: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()  # warms up, as Timer does
        torch.cuda.synchronize()
        start.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / number

    return measure
