"""Three blocks' maps of a 12-block DINOv3 ViT-S, against transformers' own backbone asked for the same blocks.

The same weights, after checking that both give the same bits; one image at 224x224 and at 512x384.

    python benchmarks/dinov3.py
"""

import models
import torch
from results import options, reporting
from timing import in_turn, ratio, stopwatch

INDICES = (2, 5, 8)


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--blocks", type=int, default=31, help="pairs of measurements")
    args = parser.parse_args()
    with reporting("dinov3", args) as report, torch.inference_mode():
        theirs, ours = models.theirs_and_ours(models.DINOV3, INDICES)
        table = report.table("Three of twelve blocks", {"image": "", "times faster": ".2f"})
        for height, width in ((224, 224), (512, 384)):
            x = models.images(1, (height, width))
            for y, e in zip(ours(x), models.maps(theirs(x)), strict=True):
                assert torch.equal(y, e), "not the same features"
            watches = {"ours": stopwatch(lambda: ours(x)), "theirs": stopwatch(lambda: theirs(x))}  # noqa: B023
            times = in_turn(watches, 3 if args.quick else args.blocks)
            table.add(f"{height}x{width}", ratio(times["theirs"], times["ours"]))


if __name__ == "__main__":
    main()
