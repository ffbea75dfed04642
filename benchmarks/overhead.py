"""Overhead over raw timm, side by side in one run, on the same weights.

Forward: batch of one at 224x224, raw ``features_only`` and ours in turn, many short blocks; the median of the ratios of
neighboring blocks. Creation: whole calls in turn, without weights; the median of the ratios. Import: whole processes.
Which of the two goes first alternates, so that neither gains by it.

    python benchmarks/overhead.py
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.benchmark import Timer

from autobackbone import create_feature_backbone

FAMILIES = (
    "resnet50",
    "efficientnet_b0",
    "mobilenetv4_conv_small",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=31, help="pairs of blocks for each forward")
    parser.add_argument("--creations", type=int, default=15, help="pairs of creations")
    parser.add_argument("--imports", type=int, default=15, help="pairs of processes")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"timm {timm.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| architecture | forward, ours / raw | creation, ours / raw |")
    print("|---|---|---|")
    for name in FAMILIES:
        print(f"| {name} | {forward(name, args.blocks):.3f} | {creation(name, args.creations):.3f} |", flush=True)
    bare, ours = imports(args.imports)
    print(f"\n`import autobackbone`: {1e3 * (ours - bare):.0f} ms over bare Python's {1e3 * bare:.0f} ms")


def forward(name: str, blocks: int) -> float:
    """Return how much longer ours takes than raw timm, for raw timm's own levels on the same weights."""
    raw, ours = raw_and_ours(name)
    x = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        for y, e in zip(ours(x), raw(x), strict=True):
            assert torch.equal(y, nchw(e, y)), f"{name}: not the same features"
        pair = [timer(model, x) for model in (ours, raw)]
        for t in pair:
            t.timeit(3)
        return ratio(lambda: pair[0].timeit(3).mean, lambda: pair[1].timeit(3).mean, blocks)


def raw_and_ours(name: str) -> tuple[nn.Module, nn.Module]:
    """Return raw timm's ``features_only`` model and ours, for its own levels, with the same weights."""
    raw = timm.create_model(name, features_only=True).eval()
    indices = [i % len(raw.feature_info) for i in raw.feature_info.out_indices]
    ours = create_feature_backbone(name, pretrained=False, out_indices=indices).eval()
    share_weights(ours, raw)
    return raw, ours


def nchw(expected: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a map of raw timm in our layout; it gives those of Swin with channels last."""
    return expected if expected.shape == like.shape else expected.permute(0, 3, 1, 2)


def creation(name: str, pairs: int) -> float:
    """Return how much longer ours takes to create than raw timm, without weights."""

    def ours() -> float:
        return seconds(lambda: create_feature_backbone(name, pretrained=False))

    def raw() -> float:
        return seconds(lambda: timm.create_model(name, features_only=True))

    ours()
    raw()
    return ratio(ours, raw, pairs)


def imports(pairs: int) -> tuple[float, float]:
    """Return the median seconds of a bare Python process, and of one that imports the package."""
    times = [
        [seconds(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)) for _ in range(pairs)]
        for code in ("pass", "import autobackbone")
    ]
    return statistics.median(times[0]), statistics.median(times[1])


def share_weights(ours: nn.Module, raw: nn.Module) -> None:
    """Give raw timm our weights; it renames what it rewrites."""
    state = {key.removeprefix("body.model."): value for key, value in ours.state_dict().items()}
    spelled = {s: v for k, v in state.items() for s in (k, k.replace(".", "_", 1), f"model.{k}")}
    raw.load_state_dict({key: spelled[key] for key in raw.state_dict()})


def timer(model: nn.Module, x: torch.Tensor) -> Timer:
    """Return a timer of a forward pass with all threads."""
    return Timer("model(x)", globals={"model": model, "x": x}, num_threads=torch.get_num_threads())


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory() -> float:
    """Return the peak of resident memory of this process so far, in MiB (Linux).

    Not by ``getrusage``, whose figure a process takes over from the one that started it.
    """
    [peak] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def ratio(ours: Callable[[], float], raw: Callable[[], float], pairs: int) -> float:
    """Return the median ratio of neighboring measurements, the order alternating."""
    ratios = []
    for i in range(pairs):
        first, second = (ours, raw) if i % 2 else (raw, ours)
        a, b = first(), second()
        ratios.append(a / b if i % 2 else b / a)
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
