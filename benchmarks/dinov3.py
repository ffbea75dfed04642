"""Three blocks' maps of a 12-block DINOv3 ViT-S, against transformers' own backbone asked for the same blocks.

The same weights, after checking that both give the same bits; one image at 224x224 and at 512x384, many short blocks
of both in turn, which of the two goes first alternating; the median of the ratios of neighboring blocks.

    python benchmarks/dinov3.py
"""

import argparse

import torch
import transformers
from overhead import ratio, timer
from torch import nn
from transformers import DINOv3ViTBackbone

from autobackbone import FeatureBackboneConfig, create_feature_backbone
from autobackbone.sources.choose import make_plan

MODEL = "dinov3_vits16"
INDICES = (2, 5, 8)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=31, help="pairs of blocks")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    theirs, ours = theirs_and_ours(INDICES)
    print("| image | times faster |\n|---|---|")
    for height, width in ((224, 224), (512, 384)):
        x = torch.rand(1, 3, height, width)
        with torch.inference_mode():
            for y, e in zip(ours(x), theirs(x).feature_maps, strict=True):
                assert torch.equal(y, e), "not the same features"
            pair = [timer(model, x) for model in (theirs, ours)]
            for t in pair:
                t.timeit(3)
            faster = ratio(lambda: pair[0].timeit(3).mean, lambda: pair[1].timeit(3).mean, args.blocks)  # noqa: B023
        print(f"| {height}x{width} | {faster:.2f} |", flush=True)


def theirs_and_ours(indices: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Return transformers' own backbone and ours, for the same blocks, with the same weights."""
    config = make_plan(FeatureBackboneConfig(MODEL)).hf_config
    config.set_output_features_output_indices(out_features=None, out_indices=[i + 1 for i in indices])
    theirs = DINOv3ViTBackbone(config).eval()
    ours = create_feature_backbone(MODEL, pretrained=False, out_indices=indices).eval()
    state = theirs.state_dict()
    ours.body.load_state_dict({name: state[name] for name in ours.body.state_dict()})
    return theirs, ours


if __name__ == "__main__":
    main()
