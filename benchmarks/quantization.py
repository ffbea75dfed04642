"""Quantized backbones and files, against float32, side by side in one run: how much faster, and how alike the maps are.

Images of 224x224. All variants of a backbone in turn, many times. "Times faster" is over the backbone optimized in
float32, "of its float32" is over the unquantized file in onnxruntime; both are medians of the ratios of neighboring
measurements. The similarity is the lowest cosine similarity of a level to float32, a mean over photographs that nothing
was calibrated on.

No published weights are used. Random ones would not do: in some networks they amplify any difference twenty times from
image to map, and trained ones do not. So the weights are random and then trained for some steps to tell crops of
photographs apart, which brings that down to about two to four times. Layer scales that begin near zero, where blocks
would do nothing, are set to 0.5.

    python benchmarks/quantization.py [--only ARCHITECTURE ...]
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import models
import onnxruntime
import skimage.data
import torch
from PIL import Image
from results import Cell, options, reporting
from timing import in_turn, ratio, stopwatch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from autobackbone import FeatureBackbone, create_feature_backbone, export_onnx, optimize_for_inference, quantize

PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
BATCHES = (1, 4)
BASE, FILE = "float32", "onnxruntime float32"
Run = Callable[[Tensor], list[Tensor]]


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=models.ALL, default=models.ALL, help="architectures")
    parser.add_argument("--blocks", type=int, default=5, help="measurements of each variant")
    parser.add_argument("--steps", type=int, default=60, help="of training")
    args = parser.parse_args()
    if args.quick:
        args.blocks, args.steps = 2, 2
    columns = {"architecture": "", "variant": "", "batch": "d", "times faster": ".2f", "of its float32": ".2f"}
    with reporting("quantization", args) as report:
        table = report.table("Variants", columns | {"similarity": ".4f", "size, of float32": ".2f"})
        for name in args.only:
            backbone, photos = trained(name, args.steps)
            with tempfile.TemporaryDirectory() as folder:
                sizes: dict[str, float] = {}
                runs = dict(variants(backbone, photos[::2], Path(folder), sizes))
                for batch in BATCHES[: 1 if args.quick else None]:
                    for label, cells in measure(runs, photos[1::2], batch, args.blocks):
                        table.add(name, label, batch, *cells, sizes.get(label))


def trained(name: str, steps: int) -> tuple[FeatureBackbone, Tensor]:
    """Return a backbone that was trained to tell photographs apart, and the photographs."""
    torch.manual_seed(0)
    indices = (2, 5, 8, 11) if "vit" in name else None
    strides = None if indices else (4, 8, 16, 32)
    backbone = create_feature_backbone(name, pretrained=False, out_indices=indices, out_strides=strides)
    transform, folder = backbone.input_spec.transform(), Path(skimage.data.data_dir)
    photos = torch.stack([transform(Image.open(folder / photo).convert("RGB")) for photo in PHOTOS])
    with torch.no_grad():
        for parameter in backbone.parameters():
            if 0 < parameter.min() == parameter.max() < 0.01:
                parameter.fill_(0.5)
    head = nn.Linear(backbone.out_channels, len(PHOTOS))
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(steps):
        labels = torch.randint(0, len(PHOTOS), (32,))
        logits = head(backbone(crops(photos[labels]))[-1].mean((2, 3)))
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
    for module in backbone.modules():  # statistics of whole photographs
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        backbone(photos)
    return backbone.eval(), photos


def crops(photos: Tensor, size: int = 96) -> Tensor:
    """Return a random square of each photograph, at one size."""
    result = []
    for photo in photos:
        side = int(torch.randint(48, 224, ()))
        top, left = (int(torch.randint(0, 225 - side, ())) for _ in range(2))
        square = photo[None, :, top : top + side, left : left + side]
        result.append(interpolate(square, (size, size), mode="bilinear"))
    return torch.cat(result)


def variants(
    backbone: FeatureBackbone, calibration: Tensor, folder: Path, sizes: dict[str, float]
) -> Iterator[tuple[str, Run]]:
    """Yield a label and what runs it, for those that can be had; put the sizes of quantized ones into `sizes`."""
    fast = optimize_for_inference(backbone)
    yield BASE, fast
    half = optimize_for_inference(backbone, dtype="bfloat16")
    yield "bfloat16", lambda x: half(x.bfloat16())
    images = calibration.split(4)
    has_linear = any(isinstance(module, nn.Linear) for module in fast.modules())
    schemes = {"torchao weight only": "int8_weight_only", "torchao dynamic": "int8_dynamic"} if has_linear else {}
    for label, scheme in schemes.items():
        small = quantize(fast, scheme, images, min_similarity=-1)
        report = small.quantization_report
        sizes[label] = report.bytes_after / report.bytes_before
        yield label, small
    export_onnx(fast, folder / "float32.onnx")
    yield FILE, session(folder / "float32.onnx")
    schemes = {"onnxruntime static": "int8_static"} | ({"onnxruntime dynamic": "int8_dynamic"} if has_linear else {})
    for label, scheme in schemes.items():
        path = folder / f"{scheme}.onnx"
        report = export_onnx(fast, path, quantize=scheme, calibration=images, min_similarity=-1)
        sizes[label] = report.bytes_after / report.bytes_before
        yield label, session(path)


def session(path: Path) -> Run:
    """Return what runs a file, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in model.run(None, {"images": x.numpy()})]


def measure(runs: dict[str, Run], photos: Tensor, batch: int, blocks: int) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    """Yield the cells of each variant but the first: times faster, of its float32, and the similarity."""
    x = photos[:batch].contiguous()
    with torch.inference_mode():
        expected = runs[BASE](photos)
        times = in_turn({label: stopwatch(lambda run=run: run(x)) for label, run in runs.items()}, blocks)
        for label, run in runs.items():
            if label != BASE:
                is_file = label.startswith("onnxruntime ") and label != FILE
                of_file = ratio(times[FILE], times[label]) if is_file else None
                yield label, (ratio(times[BASE], times[label]), of_file, similarity(run(photos), expected))


def similarity(maps: list[Tensor], expected: list[Tensor]) -> float:
    """Return the lowest cosine similarity of a level, a mean over images."""
    pairs = zip(maps, expected, strict=True)
    return min(float(cosine_similarity(y.flatten(1).double(), e.flatten(1).double()).mean()) for y, e in pairs)


if __name__ == "__main__":
    main()
