"""Training, side by side in one run: an FPN step against raw timm's, checkpointing's memory, what freezing saves.

FPN: a training step of ResNet-50 with FPN, ours and raw timm's ``features_only`` with torchvision's FPN, on the same
weights, in turn; the median of the ratios of neighboring steps. Checkpointing: whole processes, the peak of resident
memory in a training step of ViT-B on four 512x512 images, less what is resident before it. Freezing: steps of one
ResNet-50, with and without the first two of its four stages frozen, in turn.

    python benchmarks/training.py
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from overhead import peak_memory, ratio, seconds, share_weights
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
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15, help="pairs of steps")
    parser.add_argument("--processes", type=int, default=3, help="processes for each peak of memory")
    parser.add_argument("--peak-of", choices=("plain", "checkpointed"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.peak_of:
        print(activation_memory(checkpointed=args.peak_of == "checkpointed"))
        return
    print(f"timm {timm.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"FPN step, ours / raw: {fpn_step(args.steps):.3f}", flush=True)
    plain, checkpointed = (peak(kind, args.processes) for kind in ("plain", "checkpointed"))
    share = checkpointed / plain
    print(f"activations, checkpointed / plain: {share:.2f} ({checkpointed:.0f} / {plain:.0f} MiB)", flush=True)
    print(f"step, all trained / two of four stages frozen: {freezing(args.steps):.2f}")


def fpn_step(pairs: int) -> float:
    """Return how much longer a step of ours takes than one of raw timm's, on the same weights."""
    raw = RawPyramid().train()
    backbone = create_feature_backbone("resnet50", pretrained=False, out_strides=(4, 8, 16, 32))
    ours = FeaturePyramid(backbone).train()
    share_weights(backbone, raw.body)
    ours.fpn.load_state_dict(raw.fpn.state_dict())
    x = torch.rand(2, 3, 256, 256)
    for y, e in zip(ours(x).values(), raw(x).values(), strict=True):
        assert torch.equal(y, e), "not the same pyramid"
    steps = [stepper(model, x) for model in (ours, raw)]
    return ratio(lambda: seconds(steps[0]), lambda: seconds(steps[1]), pairs)


def freezing(pairs: int) -> float:
    """Return how many times longer a step takes with everything trained than with two stages frozen."""
    backbones = [create_feature_backbone("resnet50", pretrained=False).train() for _ in range(2)]
    freeze_stages(backbones[1], 2)
    x = torch.rand(2, 3, 256, 256)
    steps = [stepper(backbone, x) for backbone in backbones]
    return ratio(lambda: seconds(steps[0]), lambda: seconds(steps[1]), pairs)


def stepper(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a training step, which was tried."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        maps = model(x)
        maps = maps.values() if isinstance(maps, dict) else maps
        torch.stack([y.square().mean() for y in maps]).sum().backward()
        optimizer.step()

    step()
    return step


def peak(kind: str, processes: int) -> float:
    """Return the median of what processes measure, in MiB."""
    command = [sys.executable, __file__, "--peak-of", kind]
    answers = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(processes)]
    return statistics.median(map(float, answers))


def activation_memory(*, checkpointed: bool) -> float:
    """Return by how much a step of ViT-B on four 512x512 images takes of memory at its peak, in MiB (Linux)."""
    backbone = create_feature_backbone("vit_base_patch16_224", pretrained=False).train()
    backbone.set_grad_checkpointing(checkpointed)
    stepper(backbone, torch.rand(1, 3, 64, 64))  # takes what libraries take for themselves, and the gradients
    backbone.zero_grad(set_to_none=False)
    x = torch.rand(4, 3, 512, 512)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    torch.stack([y.square().mean() for y in backbone(x)]).sum().backward()
    return peak_memory() - pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
