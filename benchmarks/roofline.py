"""What bounds a forward pass on this machine: the peaks that torch reaches here, and what each backbone asks for.

Peaks: the best of large matrix products and convolutions, and of copies and triads (``a = b + 2 * c``) that fit no
cache. Backbones: floating point operations as torch's ``FlopCounterMode`` counts them, a multiplication and an addition
being two; bytes as if every operation read all its inputs and weights from memory and wrote all its outputs, though
caches and fused kernels spare some of it. The bound is the time that a machine of these peaks would take at least, were
nothing spared: the longer one of computing and of moving, and a share of it above 1 shows what is spared.

    python benchmarks/roofline.py [--device cuda]
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import models
import torch
from results import Report, options, reporting
from timing import Spread, in_turn, stopwatch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autobackbone import optimize_for_inference

DTYPES = (torch.float32, torch.bfloat16)
BATCH = {"cpu": 4, "cuda": 64}
MATRICES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
IMAGES = {"cpu": 4, "cuda": 64}  # of the convolution, with 256 channels of 56x56
FLOATS = {"cpu": 2**26, "cuda": 2**28}  # of each array that is copied


class BytesCounter(TorchDispatchMode):
    """Counts the bytes of what operations read and write, those left out that only look at memory differently."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it moves."""
        output = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(tensor.nbytes for tensor in _tensors((args, kwargs, output)))
        return output


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__, "cpu", "cuda")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 2
    with reporting("roofline", args) as report, torch.no_grad():
        flops, bandwidth = peaks(report, args.rounds)
        backbones(report, args, flops, bandwidth)


def peaks(report: Report, rounds: int) -> tuple[dict[torch.dtype, float], float]:
    """Measure the peaks; return those with all threads."""
    threads = torch.get_num_threads()
    table = report.table("Peaks", {"peak": "", "threads": "d", "best of": "", "figure": ".1f", "unit": ""})
    for count in dict.fromkeys((1, threads)) if report.device == "cpu" else (threads,):
        torch.set_num_threads(count)
        flops = {}
        for dtype in DTYPES:
            label, flops[dtype] = best(computing(report.device, dtype), report.device, rounds)
            table.add(str(dtype).removeprefix("torch."), count, label, flops[dtype] / 1e9, "GFLOP/s")
        label, bandwidth = best(moving(report.device), report.device, rounds)
        table.add("memory", count, label, bandwidth / 1e9, "GB/s")
    torch.set_num_threads(threads)
    return flops, bandwidth


def best(works: Iterator[tuple[str, float, Callable[[], object]]], device: str, rounds: int) -> tuple[str, float]:
    """Return which of several reaches the most in a second, and how much: in the best of all measurements."""
    amounts, watches = {}, {}
    for label, amount, call in works:
        amounts[label], watches[label] = amount, stopwatch(call, device)
    rates = {label: amounts[label] / min(times) for label, times in in_turn(watches, rounds).items()}
    label = max(rates, key=rates.__getitem__)
    return label, rates[label]


def computing(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, Callable[[], object]]]:
    """Yield matrix products and a convolution, with their operations."""
    for n in MATRICES[device]:
        a, b = (torch.rand(n, n, device=device, dtype=dtype) for _ in range(2))
        yield f"matrices of {n}x{n}", 2 * n**3, lambda a=a, b=b: a @ b
    x = torch.rand(IMAGES[device], 256, 56, 56, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.rand(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    yield "3x3 convolution of 256 channels", 2 * x.numel() * 9 * 256, lambda: conv2d(x, weight, padding=1)


def moving(device: str) -> Iterator[tuple[str, float, Callable[[], object]]]:
    """Yield a copy and a triad, with their bytes."""
    a, b, c = (torch.ones(FLOATS[device], device=device) for _ in range(3))
    yield "copy", 2 * a.nbytes, lambda: a.copy_(b)
    yield "triad", 3 * a.nbytes, lambda: torch.add(b, c, alpha=2, out=a)


def backbones(report: Report, args: argparse.Namespace, flops: dict[torch.dtype, float], bandwidth: float) -> None:
    """Measure what backbones ask for, and what they get."""
    columns = {"architecture": "", "model": "", "batch": "d", "GFLOP": ".1f", "MB": ".0f", "FLOP/byte": ".1f"}
    columns |= {"GFLOP/s": ".1f", "bound by": "", "of the bound": ".2f"}
    table = report.table("Backbones", columns)
    batch = 1 if report.quick else BATCH[report.device]
    for name in models.ALL:
        _, ours = (model.to(report.device) for model in models.theirs_and_ours(name))
        variants = {
            "as created": (ours, torch.float32),
            "optimized": (optimize_for_inference(ours), torch.float32),
            "optimized, bfloat16": (optimize_for_inference(ours, dtype="bfloat16"), torch.bfloat16),
        }
        operations = count_flops(ours, models.images(batch, device=report.device))
        calls, moved = {}, {}
        for label, (model, dtype) in variants.items():
            x = models.images(batch, device=report.device).to(dtype)
            calls[label] = stopwatch(lambda model=model, x=x: model(x), report.device)
            moved[label] = count_bytes(model, x)
        for label, times in in_turn(calls, args.rounds).items():
            computing_s = operations / flops[variants[label][1]]
            moving_s = moved[label] / bandwidth
            table.add(
                name,
                label,
                batch,
                operations / 1e9,
                moved[label] / 1e6,
                operations / moved[label],
                Spread.of([operations / 1e9 / seconds for seconds in times]),
                "computing" if computing_s > moving_s else "moving",
                Spread.of([max(computing_s, moving_s) / seconds for seconds in times]),
            )


def count_flops(model: nn.Module, x: Tensor) -> float:
    """Return the operations of a forward pass."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no fused kernels of CPUs
        model(x)
    return float(counter.get_total_flops())


def count_bytes(model: nn.Module, x: Tensor) -> float:
    """Return the bytes that the operations of a forward pass read and write."""
    with BytesCounter() as counter:
        model(x)
    return float(counter.bytes)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


if __name__ == "__main__":
    main()
