"""Backbones optimized for inference, against the libraries' own models on the same weights, side by side in one run.

Images of 224x224, at batches of one and of four. Each variant and the library's model in turn, many times, which of the
two goes first alternating; the median of the ratios of neighboring runs. Raw timm is ``features_only``; for DINOv3 the
other is transformers' own backbone. Before anything is timed, the maps are compared: off is the largest difference of
a level (root mean square, relative) from those of the library.

    python benchmarks/inference.py [--compile]
"""

import argparse
import statistics
from collections.abc import Iterator

import timm
import torch
import transformers
from dinov3 import MODEL as DINOV3
from dinov3 import theirs_and_ours
from overhead import FAMILIES, nchw, ratio, raw_and_ours, timer
from torch import Tensor, nn

from autobackbone import optimize_for_inference

BATCHES = (1, 4)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=11, help="pairs of runs for each variant")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes")
    args = parser.parse_args()
    torch.manual_seed(0)
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in (timm, transformers, torch))
    print(f"{versions}, {torch.get_num_threads()} threads")
    labels = ["as created", "float32", "bfloat16"] + ["float32, compiled", "bfloat16, compiled"] * args.compile
    print(f"\n| architecture | batch | {' | '.join(labels)} |\n|---|---|{'---|' * len(labels)}")
    faster: dict[tuple[int, str], list[float]] = {}
    for name in (*FAMILIES, DINOV3):
        raw, ours = theirs_and_ours((2, 5, 8, 11)) if name == DINOV3 else raw_and_ours(name)
        for batch in BATCHES:
            cells = []
            for label, model, x in variants(ours, batch, with_compiled=args.compile):
                times, off = compare(raw, model, x, args.blocks)
                faster.setdefault((batch, label), []).append(times)
                cells.append(f"{times:.2f} ({off:.1e})")
            print(f"| {name} | {batch} | {' | '.join(cells)} |", flush=True)
    for batch in BATCHES:
        means = [f"**{statistics.geometric_mean(faster[batch, label]):.2f}**" for label in labels]
        print(f"| geometric mean | {batch} | {' | '.join(means)} |")


def variants(ours: nn.Module, batch: int, *, with_compiled: bool) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield a label, a model, and its images."""
    x = torch.rand(batch, 3, 224, 224)
    yield "as created", ours, x
    yield "float32", optimize_for_inference(ours), x
    yield "bfloat16", optimize_for_inference(ours, dtype="bfloat16"), x.bfloat16()
    if with_compiled:
        torch.compiler.reset()
        yield "float32, compiled", optimize_for_inference(ours, compile=True), x
        torch.compiler.reset()
        yield "bfloat16, compiled", optimize_for_inference(ours, dtype="bfloat16", compile=True), x.bfloat16()


def compare(raw: nn.Module, model: nn.Module, x: Tensor, blocks: int) -> tuple[float, float]:
    """Return how many times faster a model is than the library's, and how far its maps are off."""
    plain = x.float()
    with torch.inference_mode():
        off = max(error(y.double(), nchw(e, y).double()) for y, e in zip(model(x), maps(raw(plain)), strict=True))
        timers = timer(raw, plain), timer(model, x)
        for each in timers:
            each.timeit(2)
        return ratio(lambda: timers[0].timeit(2).mean, lambda: timers[1].timeit(2).mean, blocks), off


def maps(output: object) -> list[Tensor]:
    """Return the maps of the library's model."""
    return list(getattr(output, "feature_maps", output))  # type: ignore[call-overload]


def error(y: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of what is expected."""
    return float((y - expected).square().mean().sqrt() / expected.square().mean().sqrt())


if __name__ == "__main__":
    main()
