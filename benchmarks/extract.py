"""Extraction of features, side by side in one run: against the ideal, the loop that people write, and lightly-train.

Images are cut from photographs: `--images` JPEGs of 500x375 and a tenth as many of 4000x3000. On a CPU, the ideal
spends the core-seconds of decoding, transforming and the forward pass, each measured alone on all cores, before and
after; nothing else, and no core ever waits. The loop is torchvision's ``ImageFolder``, a ``DataLoader`` with one worker
per core, raw timm, and ``np.save``. lightly-train runs in a Python of its own, in which it and timm are installed; its
imports are not counted.

Memory: whole processes, the peak of resident memory of an extraction of 1,000 and of 10,000 small images. Resuming: a
finished table of 100,000 rows, the call made again.

    python benchmarks/extract.py [--lightly path/to/python]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import timm
import torch
from memory import resident
from PIL import Image
from results import Report, options, reporting
from timing import Spread
from torch import nn

from autobackbone import create_backbone, extract_features, get_input_spec, open_features

MODEL = "resnet50"
SMALL, LARGE = (500, 375), (4000, 3000)
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "ihc.png")
PARTS = ("decoders", "rates", "memory", "resume")
ROWS = 100_000  # of the table that is finished already
STAGE_IMAGES = 128  # that a stage is measured on
EMBED = """
import sys, time
import lightly_train
if __name__ == "__main__":
    work, few, data, model, workers = sys.argv[1:]
    common = dict(num_workers=int(workers), accelerator="cpu", overwrite=True)
    lightly_train.pretrain(  # embed takes nothing but a checkpoint of its own
        out=f"{work}/run", data=few, model=f"timm/{model}", method="simclr", epochs=1, batch_size=4,
        model_args={"pretrained": False}, **common,
    )
    start = time.perf_counter()
    lightly_train.embed(
        out=f"{work}/out.pt", data=data, checkpoint=f"{work}/run/checkpoints/last.ckpt", batch_size=32, **common
    )
    print("seconds", time.perf_counter() - start)
"""


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=2000, help="small images")
    parser.add_argument("--lightly", type=Path, help="a Python that has lightly-train")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print(peak_of(Path(args.peak_of)))
        return
    if args.quick:
        args.images, args.parts = 20, ("decoders", "rates")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    with reporting("extract", args) as report, tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if {"decoders", "rates"} & set(args.parts):
            draw(root / "small" / "all", SMALL, args.images)
            draw(root / "large" / "all", LARGE, args.images // 10)
        if "rates" in args.parts:
            for kind, size in (("small", SMALL), ("large", LARGE)):
                rates(report, root / kind, size, cores, args.lightly)
        if "decoders" in args.parts:
            decoders(report, root, cores)
        if {"memory", "resume"} & set(args.parts):
            table = report.table("Memory and resuming", {"what": "", "figure": ".2f"})
            if "memory" in args.parts:
                table.add("peak memory of 10,000 images, of that of 1,000", memory(root))
            if "resume" in args.parts:
                table.add(f"finished table of {ROWS:,} rows, the call made again, s", resume(root, ROWS))


def draw(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write JPEGs that are cut from photographs and enlarged or shrunk."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    photos = [Image.open(Path(skimage.data.data_dir) / name).convert("RGB") for name in PHOTOS]

    def one(i: int, box: tuple[float, float, float]) -> None:
        photo = photos[i % len(photos)]
        width = photo.width * (0.5 + box[2] / 2)
        height = min(width * size[1] / size[0], photo.height)
        left, top = box[0] * (photo.width - width), box[1] * (photo.height - height)
        cut = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        cut.save(folder / f"{i:05d}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count), random.random((count, 3)).tolist()))


def on_all_cores(function: Callable[[Any], Any], items: Iterable[Any], cores: int) -> float:
    """Return core-seconds per item of a function, on all cores at once."""
    todo = list(items)
    torch.set_num_threads(1)
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(function, todo[:cores]))
        start = time.perf_counter()
        list(pool.map(function, todo))
        spent = time.perf_counter() - start
    torch.set_num_threads(cores)
    return spent * cores / len(todo)


def decoders(report: Report, root: Path, cores: int) -> None:
    """Measure core-milliseconds of decoders for one image."""
    import torchvision.io as tvio

    def pillow(content: bytes) -> None:
        from io import BytesIO

        Image.open(BytesIO(content)).load()

    def pillow_scaled(content: bytes) -> None:
        from io import BytesIO

        image = Image.open(BytesIO(content))
        shrink = 235 / min(image.size)
        image.draft(None, (round(image.width * shrink), round(image.height * shrink)))
        image.load()

    def torchvision(content: bytes) -> None:
        tvio.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))

    columns = {"decoder, core-ms per image": "", "500x375": ".2f", "4000x3000": ".2f"}
    table = report.table("Decoders", columns)
    labels = {"Pillow": pillow, "Pillow, at a fraction of the size (used)": pillow_scaled, "torchvision": torchvision}
    for label, decoder in labels.items():
        spent = []
        for kind in ("small", "large"):
            contents = [path.read_bytes() for path in sorted((root / kind / "all").iterdir())[:STAGE_IMAGES]]
            spent.append(Spread.of([on_all_cores(decoder, contents, cores) * 1000 for _ in range(3)]))
        table.add(label, *spent)


def stages(folder: Path, backbone: nn.Module, cores: int) -> dict[str, float]:
    """Return core-seconds per image of each stage alone."""
    from autobackbone.extraction.decoding import decode, open_image
    from autobackbone.extraction.preparation import Preparation

    spec = get_input_spec(backbone)
    preparation = Preparation.of(spec, "crop", None, None, scaled=True)
    contents = [path.read_bytes() for path in sorted((folder / "all").iterdir())[:STAGE_IMAGES]]

    def decoded(content: bytes) -> Image.Image:
        opened = open_image(content)
        return decode(opened, preparation.fraction(opened.height, opened.width))

    def transformed(image: Image.Image) -> None:
        spec.normalize(preparation.resized(image.convert("RGB"))[None].float() / 255)

    def forward(x: torch.Tensor) -> None:
        with torch.inference_mode():
            backbone(x)

    batch = 8
    inputs = [torch.rand(batch, 3, *spec.size).contiguous(memory_format=torch.channels_last)] * (STAGE_IMAGES // batch)
    images = [decoded(content) for content in contents]
    return {
        "decoding": on_all_cores(decoded, contents, cores),
        "transforming": on_all_cores(transformed, images, cores),
        "forward": on_all_cores(forward, inputs, cores) / batch,
    }


def rates(report: Report, folder: Path, image_size: tuple[int, int], cores: int, lightly: Path | None) -> None:
    """Measure images per second of everybody, and of the ideal."""
    out = folder.with_name(f"{folder.name}.out")
    count = len(list((folder / "all").iterdir()))
    backbone = create_backbone(MODEL, pretrained=False).eval()
    rows: dict[str, float] = {}
    measured = [stages(folder, backbone, cores)]

    def run(label: str, function: Callable[[], Any]) -> None:
        start = time.perf_counter()
        function()
        rows[label] = count / (time.perf_counter() - start)

    runs = {
        "extract_features": lambda: extract_features(backbone, folder, out, show_progress=False),
        "ImageFolder, DataLoader, timm, np.save": lambda: loop(folder, out.with_suffix(".npy"), backbone, cores),
    }
    for label, function in runs.items():
        run(label, function)
        measured.append(stages(folder, backbone, cores))
    if lightly is not None:
        rows["lightly-train embed"] = count / embed(lightly, folder, cores)
    spent = {name: statistics.mean(each[name] for each in measured) for name in measured[0]}
    ideal = cores / sum(spent.values())
    size = "x".join(map(str, image_size))
    table = report.table(f"JPEGs of {size}", {f"{count} images": "", "images/s": ".1f", "of the ideal": ".2f"})
    table.add("the ideal", ideal, 1)
    for label, rate in rows.items():
        table.add(label, rate, rate / ideal)
    table = report.table(f"Stages, JPEGs of {size}", {"stage": "", "core-ms per image": ".1f"})
    for name, seconds in spent.items():
        table.add(name, seconds * 1000)
    assert len(open_features(out)) == count
    shutil.rmtree(out)


def loop(folder: Path, out: Path, backbone: nn.Module, cores: int) -> None:
    """Do what people write."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    model = timm.create_model(MODEL, pretrained=False, num_classes=0).eval()
    model.load_state_dict(backbone.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    loader = DataLoader(ImageFolder(str(folder), transform), batch_size=32, num_workers=cores)
    with torch.inference_mode():
        features = [model(images).numpy() for images, _ in loader]
    np.save(out, np.concatenate(features))


def embed(lightly: Path, folder: Path, cores: int) -> float:
    """Return the seconds that lightly-train takes, without its imports."""
    with tempfile.TemporaryDirectory() as work:
        few, script = Path(work) / "few", Path(work) / "embed.py"
        few.mkdir()
        for path in sorted((folder / "all").iterdir())[:8]:
            shutil.copy(path, few)
        script.write_text(EMBED, encoding="utf-8")
        command = [str(lightly), str(script), work, str(few), str(folder), MODEL, str(cores)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1])


def memory(root: Path) -> float:
    """Return the peak of memory for 10,000 images, of that for 1,000."""
    peaks = {}
    for count in (1000, 10_000):
        folder = root / f"many{count}"
        draw(folder / "all", (64, 48), count)
        command = [sys.executable, __file__, "--peak-of", str(folder)]
        peaks[count] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    first, last = peaks.values()
    return last / first


def peak_of(folder: Path) -> float:
    """Return the peak of resident memory of an extraction, in MiB."""
    extract_features(create_backbone("resnet18", pretrained=False), folder, f"{folder}.out", show_progress=False)
    return resident("VmHWM")


def resume(root: Path, rows: int) -> float:
    """Return the seconds of a call that has nothing to do: rows made of noise, images that are never read."""
    from autobackbone.extraction.parts import Part
    from autobackbone.extraction.preparation import Prepared

    folder, out = root / "names", root / "names.out"
    folder.mkdir()
    shutil.copy(Path(skimage.data.data_dir) / "chelsea.png", folder / "000000.png")
    backbone = create_backbone(MODEL, pretrained=False)
    extract_features(backbone, folder, out, show_progress=False)
    for i in range(1, rows):
        (folder / f"{i:06d}.png").touch()
    from autobackbone.extraction import run

    run.compute_parts, real = _noise(Part, Prepared), run.compute_parts
    extract_features(backbone, folder, out, show_progress=False)
    run.compute_parts = real
    start = time.perf_counter()
    report = extract_features(backbone, folder, out, show_progress=False)
    spent = time.perf_counter() - start
    assert (report.listed, report.skipped, report.extracted) == (rows, rows, 0), json.dumps(report.__dict__)
    return spent


def _noise(part_type: Any, prepared_type: Any) -> Any:
    def compute(job: Any, chunks: Any, on_images: Any) -> Any:
        values = {name: torch.rand(shape) for name, shape in job.layout.shapes.items()}
        for chunk in chunks:
            part = part_type(chunk.refs, job.layout, chunk.first)
            for i in range(len(chunk.refs)):
                part.fill(i, prepared_type(torch.empty(0), 1, 1, "0" * 64), values)
            on_images(len(chunk.refs))
            yield part

    return compute


if __name__ == "__main__":
    main()
