"""Detectors of transformers over our backbones, against the same heads over transformers' own, side by side in one run.

RT-DETR over ResNet-50 with its `TimmBackbone`, and DETR over the tenth of twelve blocks of a DINOv3 ViT-S with its
`DINOv3ViTBackbone`. The weights are the same, and so are the outputs to 1e-5. Steps and `from_pretrained` in turn, in
one process; the peak of resident memory in a training step, less what is resident before it, in processes of their own.

    python benchmarks/detectors.py
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import memory
import torch
from results import options, reporting
from timing import Spread, in_turn, ratio, seconds
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, RTDetrConfig, RTDetrForObjectDetection, TimmBackboneConfig
from transformers import DINOv3ViTConfig as ViTConfig

from autobackbone import FeatureBackboneConfig
from autobackbone.integrations.transformers import backbone_config, head_config
from autobackbone.sources.choose import make_plan

SIZE, BATCH, TOLERANCE = 320, 2, 1e-5
BLOCK = 9


def rt_detr() -> tuple[nn.Module, nn.Module]:
    """Return RT-DETR over ResNet-50: transformers' own, and ours."""
    theirs = TimmBackboneConfig(backbone="resnet50", use_pretrained_backbone=False, out_indices=[2, 3, 4])
    ours = backbone_config("resnet50", pretrained=False, out_strides=(8, 16, 32))
    channels = [512, 1024, 2048]
    return (
        RTDetrForObjectDetection(RTDetrConfig(backbone_config=theirs, encoder_in_channels=channels)),
        RTDetrForObjectDetection(head_config(RTDetrConfig, ours)),
    )


def detr() -> tuple[nn.Module, nn.Module]:
    """Return DETR over a block of a DINOv3 ViT-S: transformers' own, and ours."""
    name = "dinov3_vits16"
    theirs = ViTConfig.from_dict(make_plan(FeatureBackboneConfig(name)).hf_config.to_dict())
    theirs.set_output_features_output_indices(out_features=None, out_indices=[BLOCK + 1])
    ours = backbone_config(name, pretrained=False, out_indices=(BLOCK,))
    return (
        DetrForObjectDetection(DetrConfig(use_timm_backbone=False, backbone_config=theirs)),
        DetrForObjectDetection(head_config(DetrConfig, ours)),
    )


HEADS = {
    "RT-DETR over ResNet-50": rt_detr,
    "DETR over DINOv3 ViT-S, block 10 of 12": detr,
}


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="of steps, and of loads")
    parser.add_argument("--processes", type=int, default=3, help="processes for each peak of memory")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        head, side = args.peak_of
        print(json.dumps([step_memory(HEADS[head]()[side == "ours"])]))
        return
    if args.quick:
        args.pairs, args.processes = 2, 1
    with reporting("detectors", args) as report:
        columns = {"head": "", "off": ".0e", "step": ".3f", "memory of a step": ".3f", "from_pretrained": ".3f"}
        table = report.table("Ours, of transformers' own", columns)
        for name, make in HEADS.items():
            theirs, ours = make()
            share_weights(ours, theirs)
            off = difference(ours, theirs)
            assert off < TOLERANCE, "not the same outputs"
            step = compare(stepper(ours), stepper(theirs), args.pairs)
            sides = ("theirs", "ours")
            peaks = {side: in_new_processes(name, side, args.processes) for side in sides}
            table.add(name, off, step, ratio(peaks["ours"], peaks["theirs"]), loading(ours, theirs, args.pairs))


def share_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our model their weights: those of the head by name, those of the backbone by how their names end."""
    state = theirs.state_dict()
    ours.load_state_dict({key: state[_name(key, state)] for key in ours.state_dict()})


def _name(key: str, names: Iterable[str]) -> str:
    """Return the name of one of our tensors in their model: the shortest that ends as much like it as any."""
    _, _, inside = key.rpartition(".backbone.body.")
    endings = inside.split(".") if inside != key else [key]
    for i in range(len(endings)):
        found = [name for name in names if f".{name}".endswith(f".{'.'.join(endings[i:])}")]
        if found:
            return min(found, key=len)
    raise KeyError(key)


def difference(ours: nn.Module, theirs: nn.Module) -> float:
    """Return how far logits and boxes are apart, at most."""
    x = torch.rand(BATCH, 3, SIZE, SIZE)
    with torch.inference_mode():
        y, expected = (model.eval()(x) for model in (ours, theirs))
    return max(float((y[key] - expected[key]).abs().max()) for key in ("logits", "pred_boxes"))


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> Spread:
    """Return how much longer ours takes than theirs."""
    times = in_turn({"ours": lambda: seconds(ours), "theirs": lambda: seconds(theirs)}, pairs)
    return ratio(times["ours"], times["theirs"])


def stepper(model: nn.Module) -> Callable[[], None]:
    """Return a training step, which was tried."""
    model.train()
    x = torch.rand(BATCH, 3, SIZE, SIZE)
    box = {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}

    def step() -> None:
        model.zero_grad()
        model(x, labels=[box] * BATCH).loss.backward()

    step()
    return step


def in_new_processes(head: str, side: str, processes: int) -> list[float]:
    """Return the memory of a step of one side, in MiB, in new processes."""
    return [memory.in_new_process(__file__, "--peak-of", head, side)[0] for _ in range(processes)]


def step_memory(model: nn.Module) -> float:
    """Return by how much a training step takes of memory at its peak, in MiB (Linux), gradients included."""
    return memory.resident_peak(stepper(model))


def loading(ours: nn.Module, theirs: nn.Module, pairs: int) -> Spread:
    """Return how much longer `from_pretrained` of the whole model takes with ours than with theirs."""
    with tempfile.TemporaryDirectory() as folder:
        calls = []
        for name, model in (("ours", ours), ("theirs", theirs)):
            path = Path(folder, name)
            model.save_pretrained(path)
            calls.append(partial(type(model).from_pretrained, path))
            calls[-1]()
        return compare(*calls, pairs)


if __name__ == "__main__":
    main()
