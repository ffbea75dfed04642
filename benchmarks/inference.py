"""Backbones optimized for inference, against the libraries' own models on the same weights, side by side in one run.

Images of 224x224. Each variant and the library's model in turn; the median of the ratios of neighboring measurements.
The library's model is eager and in float32: raw timm's ``features_only``, and transformers' backbone for DINOv3. As
bfloat16 alone saves time, the library's model in bfloat16 is a variant, too. Off is how far the maps are from those
of the library: the worst level's root mean square of the difference, relative.

    python benchmarks/inference.py [--compile] [--device cuda]
"""

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence

import memory
import models
import torch
from results import Cell, Report, Table, options, reporting
from timing import Spread, in_turn, ratio, stopwatch
from torch import Tensor, nn

from autobackbone import optimize_for_inference
from autobackbone.errors import BackboneError

BATCHES = {"cpu": (1, 4), "cuda": (1, 8, 64, 256)}
Make = Callable[[], nn.Module]
Variant = tuple[str, torch.dtype, Make]
"""A label, the precision, and what makes the model."""
Kind = Callable[[nn.Module, nn.Module], Iterator[Variant]]
"""Yields variants, given the library's model and ours."""


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__, "cpu", "cuda")
    parser.add_argument("--blocks", type=int, default=9, help="pairs of measurements of each variant")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes")
    parser.add_argument("--only", nargs="+", choices=models.ALL, default=models.ALL, help="architectures")
    parser.add_argument("--batches", nargs="+", type=int, help="numbers of images")
    args = parser.parse_args()
    batches = args.batches or BATCHES[args.device]
    if args.quick:
        args.blocks, batches = 2, batches[:1]
    kinds = (eager, compiled) if args.compile else (eager,)
    with reporting("inference", args) as report:
        measure(report, args.only, batches, args.blocks, *kinds)


def measure(report: Report, names: Sequence[str], batches: Sequence[int], blocks: int, *kinds: Kind) -> None:
    """Add a table of variants and one of their means."""
    cuda = {"peak memory, MiB": ".0f"} if report.device == "cuda" else {}
    columns = {"architecture": "", "variant": "", "batch": "d", "times faster": ".2f", "images/s": ".1f"}
    table = report.table("Variants", columns | {"off": ".0e"} | cuda | {"error": ""})
    for name in names:
        raw, ours = (model.to(report.device) for model in models.theirs_and_ours(name))
        for label, dtype, make in (variant for kind in kinds for variant in kind(raw, ours)):
            for cells in rows(report, raw, make, dtype, batches, blocks):
                table.add(name, label, *cells)
    means(report, table)


def eager(raw: nn.Module, ours: nn.Module) -> Iterator[Variant]:
    """Yield what torch runs operation by operation."""
    yield "as created", torch.float32, lambda: ours
    yield "float32", torch.float32, lambda: optimize_for_inference(ours)
    yield "library's, bfloat16", torch.bfloat16, lambda: copy.deepcopy(raw).bfloat16()
    yield "bfloat16", torch.bfloat16, lambda: optimize_for_inference(ours, dtype="bfloat16")


def compiled(raw: nn.Module, ours: nn.Module) -> Iterator[Variant]:  # noqa: ARG001 - as `eager`
    """Yield what torch.compile makes."""
    yield "float32, compiled", torch.float32, lambda: optimize_for_inference(ours, compile=True)
    halved = {"dtype": "bfloat16", "compile": True}
    yield "bfloat16, compiled", torch.bfloat16, lambda: optimize_for_inference(ours, **halved)


def rows(
    report: Report, raw: nn.Module, make: Make, dtype: torch.dtype, batches: Sequence[int], blocks: int
) -> Iterator[tuple[Cell, ...]]:
    """Yield the cells of a variant for each number of images; if it cannot be had, one row with the reason."""
    torch.compiler.reset()
    measures = 4 if report.device == "cuda" else 3
    try:
        model = make()
        for batch in batches:
            x = models.images(batch, device=report.device)
            yield batch, *compare(report.device, raw, model, x, dtype, blocks), None
    except (BackboneError, RuntimeError) as err:
        yield None, *[None] * measures, f"{type(err).__name__}: {err}"


def compare(
    device: str, raw: nn.Module, model: nn.Module, x: Tensor, dtype: torch.dtype, blocks: int
) -> tuple[Cell, ...]:
    """Return how many times faster than the library's a model is, its rate, how far its maps are off, and its peak."""
    y = x.to(dtype)
    with torch.inference_mode():
        off = models.error(models.maps(model(y)), models.maps(raw(x)))
        sides = {"library": lambda: raw(x), "variant": lambda: model(y)}
        times = in_turn({name: stopwatch(call, device) for name, call in sides.items()}, blocks)
        peak = [memory.cuda_peak(sides["variant"])] if device == "cuda" else []
    rate = Spread.of([len(x) / each for each in times["variant"]])
    return ratio(times["library"], times["variant"]), rate, off, *peak


def means(report: Report, table: Table) -> None:
    """Add the geometric means over the architectures."""
    means = report.table("Geometric means", {"variant": "", "batch": "d", "times faster": ".2f", "architectures": "d"})
    faster: dict[tuple[Cell, Cell], list[float]] = {}
    for row in table.rows:
        if isinstance(row["times faster"], Spread):
            faster.setdefault((row["variant"], row["batch"]), []).append(row["times faster"].median)
    for (variant, batch), values in faster.items():
        means.add(variant, batch, statistics.geometric_mean(values), len(values))


if __name__ == "__main__":
    main()
