"""Quantized backbones and files, against float32, side by side in one run: how much faster, and how alike the maps are.

Images of 224x224, at batches of one and of four. Each variant and the backbone optimized in float32 in turn, many
times, which of the two goes first alternating; the median of the ratios of neighboring runs. Quantized files are also
compared with onnxruntime in float32. In parentheses: the lowest cosine similarity of a level to float32, a mean over
photographs that nothing was calibrated on.

No published weights are used. Random ones would not do: in some networks they amplify any difference twenty times from
image to map, and trained ones do not. So the weights are random and then trained for some steps to tell crops of
photographs apart, which brings that down to about two to four times. Layer scales that begin near zero, where blocks
would do nothing, are set to 0.5.

    python benchmarks/quantization.py [ARCHITECTURE ...]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import skimage.data
import torch
import torchao
from dinov3 import MODEL as DINOV3
from overhead import FAMILIES, ratio
from PIL import Image
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
LABELS = (
    "bfloat16",
    "torchao weight only",
    "torchao dynamic",
    "onnxruntime float32",
    "onnxruntime static",
    "onnxruntime dynamic",
)
Run = Callable[[Tensor], list[Tensor]]


def main() -> None:
    """Measure and print a table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=(*FAMILIES, DINOV3))
    parser.add_argument("--blocks", type=int, default=9, help="pairs of runs for each variant")
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and onnxruntime")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = ", ".join(f"{each.__name__} {each.__version__}" for each in (torch, torchao, onnxruntime))
    print(f"{versions}, {torch.get_num_threads()} threads", flush=True)
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for name in args.architectures:
        backbone, photos = trained(name, args.steps)
        with tempfile.TemporaryDirectory() as folder:
            runs = dict(variants(backbone, photos[::2], Path(folder)))
            rows |= {(name, batch): measure(runs, photos[1::2], batch, args.blocks) for batch in BATCHES}
        for batch in BATCHES:
            print(f"{name}, {batch}: {rows[name, batch]}", flush=True)
    print(f"\n| architecture | batch | {' | '.join(LABELS)} |\n|---|---|{'---|' * len(LABELS)}")
    for (name, batch), cells in rows.items():
        print(f"| {name} | {batch} | {' | '.join(cells.get(label, '-') for label in LABELS)} |")


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


def variants(backbone: FeatureBackbone, calibration: Tensor, folder: Path) -> Iterator[tuple[str, Run]]:
    """Yield a label and what runs it: first the backbone optimized in float32, then those that can be had."""
    fast = optimize_for_inference(backbone)
    yield "float32", fast
    half = optimize_for_inference(backbone, dtype="bfloat16")
    yield "bfloat16", lambda x: half(x.bfloat16())
    images = calibration.split(4)
    for label, scheme in (("torchao weight only", "int8_weight_only"), ("torchao dynamic", "int8_dynamic")):
        if any(isinstance(module, nn.Linear) for module in fast.modules()):
            yield label, quantize(fast, scheme, images, min_similarity=-1)
    export_onnx(fast, folder / "float32.onnx")
    yield "onnxruntime float32", session(folder / "float32.onnx")
    for label, scheme in (("onnxruntime static", "int8_static"), ("onnxruntime dynamic", "int8_dynamic")):
        path = folder / f"{scheme}.onnx"
        if scheme == "int8_static" or any(isinstance(module, nn.Linear) for module in fast.modules()):
            report = export_onnx(fast, path, quantize=scheme, calibration=images, min_similarity=-1)
            print(f"{backbone.config.model_name}: {report}")
            yield label, session(path)


def session(path: Path) -> Run:
    """Return what runs a file, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in model.run(None, {"images": x.numpy()})]


def measure(runs: dict[str, Run], photos: Tensor, batch: int, blocks: int) -> dict[str, str]:
    """Return a cell for each variant."""
    x = photos[:batch].contiguous()
    cells = {}
    with torch.inference_mode():
        expected = runs["float32"](photos)
        for label, run in runs.items():
            if label == "float32":
                continue
            run(x)
            faster = ratio(lambda: seconds(runs["float32"], x), lambda run=run: seconds(run, x), blocks)
            cells[label] = f"{faster:.2f}"
            if label.startswith("onnxruntime ") and label != "onnxruntime float32":
                of_file = ratio(
                    lambda: seconds(runs["onnxruntime float32"], x), lambda run=run: seconds(run, x), blocks
                )
                cells[label] += f", {of_file:.2f} of its float32"
            cells[label] += f" ({similarity(run(photos), expected):.4f})"
    return cells


def seconds(run: Run, x: Tensor) -> float:
    """Return the wall time of a forward pass, the best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return min(times)


def similarity(maps: list[Tensor], expected: list[Tensor]) -> float:
    """Return the lowest cosine similarity of a level, a mean over images."""
    pairs = zip(maps, expected, strict=True)
    return min(float(cosine_similarity(y.flatten(1).double(), e.flatten(1).double()).mean()) for y, e in pairs)


if __name__ == "__main__":
    main()
