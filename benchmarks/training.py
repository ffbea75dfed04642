"""Training, side by side in one run: an FPN step against raw timm's, checkpointing's memory, what freezing saves.

FPN: a training step of ResNet-50 with FPN, ours and raw timm's ``features_only`` with torchvision's FPN, on the same
weights, in turn; the median of the ratios of neighboring steps. Checkpointing: whole processes, the peak of resident
memory in a training step of ViT-B on four 512x512 images, less what is resident before it. Freezing: steps of one
ResNet-50, with and without the first two of its four stages frozen, in turn.

    python benchmarks/training.py
"""

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable

import memory
import timm
import torch
from models import maps, share_weights
from results import Report, options, reporting
from timing import Spread, in_turn, ratio, seconds
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from autobackbone import FeaturePyramid, create_feature_backbone, freeze_stages


class RawPyramid(nn.Module):
    """What one writes without this package."""

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 256)

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Map images to the pyramid."""
        maps: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(i), y) for i, y in enumerate(self.body(x))))
        return maps


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=15, help="pairs of steps")
    parser.add_argument("--processes", type=int, default=3, help="processes for each peak of memory")
    parser.add_argument("--peak-of", choices=("plain", "checkpointed"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print(json.dumps([activation_memory(checkpointed=args.peak_of == "checkpointed")]))
        return
    if args.quick:
        args.steps, args.processes = 2, 1
    with reporting("training", args) as report:
        steps(report, args.steps)
        activations(report, args.processes)


def steps(report: Report, pairs: int) -> None:
    """Measure steps of ResNet-50."""
    table = report.table("Steps", {"steps of ResNet-50": "", "ratio": ".3f"})
    table.add("with FPN, ours / raw timm with torchvision's FPN", fpn_step(pairs))
    table.add("everything trained / stem and two of four stages frozen", freezing(pairs))


def activations(report: Report, processes: int) -> None:
    """Measure what checkpointing saves."""
    kinds = ("plain", "checkpointed")
    peaks = {kind: [memory.in_new_process(__file__, "--peak-of", kind)[0] for _ in range(processes)] for kind in kinds}
    table = report.table("Memory", {"activations of ViT-B at 512x512": "", "MiB": ".0f", "of plain": ".2f"})
    for kind, values in peaks.items():
        table.add(kind, Spread.of(values), ratio(values, peaks["plain"]))


def fpn_step(pairs: int) -> Spread:
    """Return how much longer a step of ours takes than one of raw timm's, on the same weights."""
    raw = RawPyramid().train()
    backbone = create_feature_backbone("resnet50", pretrained=False, out_strides=(4, 8, 16, 32))
    ours = FeaturePyramid(backbone).train()
    share_weights(backbone, raw.body)
    ours.fpn.load_state_dict(raw.fpn.state_dict())
    x = torch.rand(2, 3, 256, 256)
    for y, e in zip(ours(x).values(), raw(x).values(), strict=True):
        assert torch.equal(y, e), "not the same pyramid"
    return compare(stepper(ours, x), stepper(raw, x), pairs)


def freezing(pairs: int) -> Spread:
    """Return how many times longer a step takes with everything trained than with two stages frozen."""
    trained, frozen = (create_feature_backbone("resnet50", pretrained=False).train() for _ in range(2))
    freeze_stages(frozen, 2)
    x = torch.rand(2, 3, 256, 256)
    return compare(stepper(trained, x), stepper(frozen, x), pairs)


def compare(first: Callable[[], None], second: Callable[[], None], pairs: int) -> Spread:
    """Return how much longer the first takes than the second."""
    times = in_turn({"first": lambda: seconds(first), "second": lambda: seconds(second)}, pairs)
    return ratio(times["first"], times["second"])


def stepper(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a training step, which was tried."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack([y.square().mean() for y in maps(model(x))]).sum().backward()
        optimizer.step()

    step()
    return step


def activation_memory(*, checkpointed: bool) -> float:
    """Return by how much a step of ViT-B on four 512x512 images takes of memory at its peak, in MiB (Linux)."""
    backbone = create_feature_backbone("vit_base_patch16_224", pretrained=False).train()
    backbone.set_grad_checkpointing(checkpointed)
    stepper(backbone, torch.rand(1, 3, 64, 64))  # takes what libraries take for themselves, and the gradients
    backbone.zero_grad(set_to_none=False)
    x = torch.rand(4, 3, 512, 512)
    before = memory.resident()
    torch.stack([y.square().mean() for y in backbone(x)]).sum().backward()
    return memory.resident("VmHWM") - before


if __name__ == "__main__":
    main()
