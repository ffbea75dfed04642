"""The command ``export``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from autobackbone.cli import options
from autobackbone.cli.options import image_size, new_console, print_levels
from autobackbone.errors import ConfigError


@click.command()
@options.backbone
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="File to write: .onnx or .pt2.")
@click.option("--size", help="Size of the images: 224 or 333x257.")
@click.option("--dynamic-size", is_flag=True, help="Take any height and width.")
@options.as_json
def export(
    out: Path,
    size: str | None,
    dynamic_size: bool,
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
    input_size = image_size("--size", size)
    backbone = options.create(**backbone_options, random_weights=random_weights)
    from autobackbone.export import export_onnx, export_program

    write = export_program if out.suffix == ".pt2" else export_onnx
    write(backbone, out, input_size, dynamic_size=dynamic_size)
    if as_json:
        levels = [asdict(level) for level in backbone.levels]
        print(json.dumps({"file": str(out), "random_weights": random_weights, "levels": levels}))  # noqa: T201
        return
    note = "RANDOM WEIGHTS, untrained" if random_weights else ""
    print_levels(new_console(), backbone.levels, title=backbone.config.model_name, note=note)
    print(out)  # noqa: T201
