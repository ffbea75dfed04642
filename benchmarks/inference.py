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
from overhead import FAMILIES, ratio, share_weights, timer
from torch import Tensor, nn
from transformers import DINOv3ViTBackbone

from autobackbone import FeatureBackboneConfig, create_feature_backbone, optimize_for_inference
from autobackbone.sources.choose import make_plan

DINOV3 = "dinov3_vits16"
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
        raw, ours = pair(name)
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


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Return the library's own model and ours, for the same levels, with the same weights."""
    if name == DINOV3:
        indices = (2, 5, 8, 11)
        config = make_plan(FeatureBackboneConfig(name)).hf_config
        config.set_output_features_output_indices(out_features=None, out_indices=[i + 1 for i in indices])
        raw = DINOv3ViTBackbone(config).eval()
        ours = create_feature_backbone(name, pretrained=False, out_indices=indices).eval()
        state = raw.state_dict()
        ours.body.load_state_dict({key: state[key] for key in ours.body.state_dict()})
        return raw, ours
    raw = timm.create_model(name, features_only=True).eval()
    indices = [i % len(raw.feature_info) for i in raw.feature_info.out_indices]
    ours = create_feature_backbone(name, pretrained=False, out_indices=indices).eval()
    share_weights(ours, raw)
    return raw, ours


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


def nchw(expected: Tensor, like: Tensor) -> Tensor:
    """Return a map in our layout; timm gives those of Swin with channels last."""
    return expected if expected.shape == like.shape else expected.permute(0, 3, 1, 2)


def error(y: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of what is expected."""
    return float((y - expected).square().mean().sqrt() / expected.square().mean().sqrt())


if __name__ == "__main__":
    main()
