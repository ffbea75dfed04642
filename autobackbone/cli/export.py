"""The command ``export``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autobackbone.cli import options
from autobackbone.cli.options import image_size, new_console, print_levels
from autobackbone.errors import ConfigError, InputError
from autobackbone.extraction.files import IMAGES
from autobackbone.values import as_size

if TYPE_CHECKING:
    from torch import Tensor

    from autobackbone.input_spec import InputSpec

_MOST = 256  # images to calibrate with


@click.command()
@options.backbone
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="File to write: .onnx or .pt2.")
@click.option("--size", help="Size of the images: 224 or 333x257.")
@click.option("--dynamic-size", is_flag=True, help="Take any height and width.")
@click.option("--quantize", help="int8_static (convolutions) or int8_dynamic (transformers); of .onnx files.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of images to quantize with; 256 will do.")
@options.as_json
def export(
    out: Path,
    size: str | None,
    dynamic_size: bool,
    quantize: str | None,
    calibration: Path | None,
    as_json: bool,
    random_weights: bool,
    **backbone_options: Any,
) -> None:
    """Write a backbone as ONNX (.onnx) or an archive of torch.export (.pt2), and check what the file returns.

    ONNX needs autobackbone[onnx].
    """
    if out.suffix not in (".onnx", ".pt2"):
        msg = f"--out={str(out)!r}: name a file that ends in .onnx (ONNX) or .pt2 (torch.export)."
        raise ConfigError(msg)
    if (quantize is None) != (calibration is None) or (quantize is not None and out.suffix != ".onnx"):
        msg = (
            "--quantize and --calibration go together, and with an .onnx file: give the scheme and a folder of images."
        )
        raise ConfigError(msg)
    input_size = image_size("--size", size)
    paths = None if calibration is None else _images_in(calibration)
    backbone = options.create(**backbone_options, random_weights=random_weights)
    from autobackbone.export import export_onnx, export_program

    report = None
    if out.suffix == ".pt2":
        export_program(backbone, out, input_size, dynamic_size=dynamic_size)
    elif quantize is None or paths is None:
        export_onnx(backbone, out, input_size, dynamic_size=dynamic_size)
    else:
        images = _load(paths, backbone.input_spec, input_size)
        report = export_onnx(
            backbone, out, input_size, dynamic_size=dynamic_size, quantize=quantize, calibration=images
        )
    if as_json:
        levels = [asdict(level) for level in backbone.levels]
        answer = {"file": str(out), "random_weights": random_weights, "levels": levels}
        print(json.dumps(answer | ({} if report is None else {"quantization": asdict(report)})))  # noqa: T201
        return
    note = "RANDOM WEIGHTS, untrained" if random_weights else ""
    console = new_console()
    print_levels(console, backbone.levels, title=backbone.config.model_name, note=note)
    if report is not None:
        for level, alike in report.similarity.items():
            console.print(f"{level}: cosine similarity {alike:.4f} to the unquantized backbone")
        before, after = report.bytes_before / 2**20, report.bytes_after / 2**20
        console.print(f"{after:.1f} MiB instead of {before:.1f}")
    print(out)  # noqa: T201


def _images_in(folder: Path) -> list[Path]:
    """Return images in a folder and those below, evenly spread if there are many."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        msg = f"--calibration {str(folder)!r}: there is no image in it; name a folder of images."
        raise InputError(msg)
    return paths[:: -(-len(paths) // _MOST)]


def _load(paths: Sequence[Path], spec: "InputSpec", input_size: Any) -> "Iterator[Tensor]":
    from autobackbone.cli.picture import load_image

    size = as_size(spec.size if input_size is None else input_size)
    if size is None:  # export_onnx says what is wrong with it
        return
    transform = replace(spec, size=size).transform()
    for path in paths:
        yield transform(load_image(path))[None]
