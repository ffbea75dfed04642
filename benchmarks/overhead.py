"""Overhead over raw timm, on the same weights: the forward pass, its memory, creation, and the import.

Forward: batches of 224x224 through the levels that raw ``features_only`` gives, after checking that both give the same
bits (on a GPU, about the same). For DINOv3, raw is transformers' backbone. Memory: the peak of a forward pass beside
weights and images; tensors, as torch's profiler counts them, and what a process of its own has resident. Creation:
without weights, ours with its default strides. Import: whole processes.

    python benchmarks/overhead.py [--device cuda]
"""

import argparse
import json
import subprocess
import sys

import memory
import models
import timm
import torch
from results import Report, options, reporting
from timing import Spread, in_turn, ratio, seconds, stopwatch
from torch import nn

from autobackbone import create_feature_backbone

BATCHES = {"cpu": (1,), "cuda": (1, 8, 64, 256)}


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__, "cpu", "cuda")
    parser.add_argument("--blocks", type=int, default=31, help="pairs of measurements of each forward pass")
    parser.add_argument("--creations", type=int, default=15, help="pairs of creations")
    parser.add_argument("--imports", type=int, default=15, help="pairs of processes")
    parser.add_argument("--resident-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.resident_of:
        side, name = args.resident_of
        pair = dict(zip(("raw", "ours"), models.theirs_and_ours(name), strict=True))
        x = models.images(4)
        with torch.inference_mode():
            print(json.dumps([memory.resident_peak(lambda: pair[side](x))]))
        return
    if args.quick:
        args.blocks, args.creations, args.imports = 3, 2, 2
    with reporting("overhead", args) as report:
        forward(report, args.blocks)
        if args.device == "cpu":
            forward_memory(report)
            creation(report, args.creations)
            imports(report, args.imports)


def forward(report: Report, blocks: int) -> None:
    """Measure forward passes, on a GPU in both precisions and with the peak of memory."""
    cuda = report.device == "cuda"
    columns = {"architecture": "", "dtype": "", "batch": "d", "ours / raw": ".3f", "raw, images/s": ".1f"}
    table = report.table("Forward", columns | ({"memory, ours / raw": ".3f"} if cuda else {}))
    for name in models.ALL:
        raw, ours = (model.to(report.device) for model in models.theirs_and_ours(name))
        for dtype in (torch.float32, torch.bfloat16)[: 1 + cuda]:
            raw, ours = raw.to(dtype), ours.to(dtype)
            for batch in BATCHES[report.device][: 1 if report.quick else None]:
                x = models.images(batch, device=report.device).to(dtype)
                with torch.inference_mode():
                    off = models.error(ours(x), models.maps(raw(x)))
                    assert off <= (1e-2 if cuda else 0), f"{name}: not the same features"
                    sides = {"ours": lambda: ours(x), "raw": lambda: raw(x)}  # noqa: B023
                    watches = {side: stopwatch(call, report.device) for side, call in sides.items()}
                    times = in_turn(watches, blocks)
                    peaks = [memory.cuda_peak(call) for call in sides.values()] if cuda else []
                rate = Spread.of([batch / each for each in times["raw"]])
                more = [peaks[0] / peaks[1]] if cuda else []
                precision = str(dtype).removeprefix("torch.")
                table.add(name, precision, batch, ratio(times["ours"], times["raw"]), rate, *more)


def forward_memory(report: Report) -> None:
    """Measure the peak of memory of forward passes of four images."""
    columns = {"architecture": "", "tensors, ours / raw": ".3f", "tensors, raw, MiB": ".1f"}
    table = report.table("Memory", columns | {"resident, ours / raw": ".3f", "resident, raw, MiB": ".1f"})
    for name in models.ALL[: 2 if report.quick else None]:
        with torch.inference_mode():
            raw, ours = (tensors(model) for model in models.theirs_and_ours(name))
        [raw_rss], [ours_rss] = (
            memory.in_new_process(__file__, "--resident-of", side, name) for side in ("raw", "ours")
        )
        table.add(name, ours / raw, raw, ours_rss / raw_rss, raw_rss)


def tensors(model: nn.Module) -> float:
    """Return the peak of the memory of tensors in a forward pass of four images."""
    x = models.images(4)
    return memory.tensor_peak(lambda: model(x))


def creation(report: Report, pairs: int) -> None:
    """Measure creations without weights."""
    table = report.table("Creation", {"architecture": "", "ours / raw": ".3f", "ours, ms": ".1f"})
    for name in models.TIMM:
        sides = {
            "ours": lambda: seconds(lambda: create_feature_backbone(name, pretrained=False)),  # noqa: B023
            "raw": lambda: seconds(lambda: timm.create_model(name, features_only=True)),  # noqa: B023
        }
        in_turn(sides, 1)
        times = in_turn(sides, pairs)
        table.add(name, ratio(times["ours"], times["raw"]), Spread.of([1e3 * each for each in times["ours"]]))


def imports(report: Report, pairs: int) -> None:
    """Measure processes that import the package, and that do nothing."""

    def process(code: str) -> float:
        return 1e3 * seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    times = in_turn({code: lambda code=code: process(code) for code in ("pass", "import autobackbone")}, pairs)
    bare, ours = times.values()
    table = report.table("Import", {"process": "", "ms": ".1f"})
    table.add("bare Python", Spread.of(bare))
    table.add("`import autobackbone`, over that", Spread.of([a - b for a, b in zip(ours, bare, strict=True)]))


if __name__ == "__main__":
    main()
