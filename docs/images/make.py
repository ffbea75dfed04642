"""The pictures of the front page: feature maps of a photograph, and how many architectures keep the contract.

The maps are those of untrained networks, and the picture says so. The counts are those of
``benchmarks/results/raw_timm.cpu.json``, which ``python benchmarks/raw_timm.py`` writes.

    python docs/images/make.py
"""

import hashlib
import sys
from pathlib import Path

import skimage.data
import torch
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path += [str(ROOT / "benchmarks"), str(HERE.parent / "guides")]

import plots  # noqa: E402
import raw_timm  # noqa: E402
from pictures import colors  # noqa: E402
from results import FOLDER, load  # noqa: E402

from autobackbone import create_feature_backbone  # noqa: E402

MODELS = ("resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "vit_small_patch16_224", "dinov3_vits16")
WEIGHTS = "untrained weights: structure and resolution only"
COUNTS = FOLDER / "raw_timm.cpu.json"


def draw_features(path: Path, models: tuple[str, ...] = MODELS) -> None:
    """Draw a photograph, and below it the maps of each backbone at strides 4 to 32."""
    photo = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1) / 255
    height, width = photo.shape[1:]
    size = (9, 1.5 * len(models) + 0.5)
    figure, grid = plt.subplots(len(models), 5, figsize=size, layout="constrained", squeeze=False)
    figure.suptitle(f"One photograph, {height}x{width}, and its maps ({WEIGHTS})", fontsize=11)
    for row, name in zip(grid, models, strict=True):
        torch.manual_seed(0)
        backbone = create_feature_backbone(name, pretrained=False, out_strides=(4, 8, 16, 32)).eval()
        with torch.no_grad():
            maps = backbone(backbone.input_spec.normalize(photo[None]))
        row[0].imshow(skimage.data.chelsea())
        row[0].set_title(name.partition("_patch")[0], fontsize=9)
        for axes, level, y in zip(row[1:], backbone.levels, maps, strict=True):
            head = f"stride {level.stride}\n" if name == models[0] else ""
            shape = "x".join(map(str, y.shape[1:]))
            axes.set_title(f"{head}{shape}{'' if level.exact else ', resampled'}", fontsize=9)
            # Cells lie where their pixels are: the last ones can reach beyond the photograph, which cuts them.
            extent = (0, y.shape[3] * level.stride, y.shape[2] * level.stride, 0)
            axes.imshow(colors(y[0]).movedim(0, 2).numpy(), extent=extent, interpolation="nearest")
            axes.set(xlim=(0, width), ylim=(height, 0))
        for axes in row:
            axes.set_axis_off()
    figure.savefig(path, dpi=130, metadata={"Software": None, "Description": WEIGHTS})
    plt.close(figure)


def digest() -> str:
    """Return what changes when the counts do."""
    return hashlib.sha256(COUNTS.read_bytes()).hexdigest()


def draw_counts(path: Path) -> None:
    """Draw how many architectures keep the contract at each size, raw and here."""
    rows = load(COUNTS).find(raw_timm.TITLE).rows
    rows = [row for row in rows if row["at"] in raw_timm.SIZES]
    with plots.drawn(path, digest(), 7, 2.4) as axes:
        for i, row in enumerate(rows):
            for side, color, place in (("raw timm", plots.COLORS[0], -0.2), ("autobackbone", plots.COLORS[1], 0.2)):
                axes.barh(i + place, row[side], 0.36, color=color, label=side if i == 0 else None)
                axes.text(row[side], i + place, f" {row[side]}", va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [f"at {row['at']}" for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02 * rows[0]["of"])
        axes.set_xlabel(f"architectures that keep the contract, of {rows[0]['of']}")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)


def main() -> None:
    """Make both."""
    draw_features(HERE / "features.png")
    draw_counts(HERE / "contract.svg")


if __name__ == "__main__":
    main()
