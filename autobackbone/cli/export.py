"""The command ``export``."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from autobackbone.cli import options
from autobackbone.cli.options import image_size, level_fields, new_console, print_levels, weights_fields


@click.command()
@options.model
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="ONNX file to write.")
@options.random_weights
@options.weights
@options.strides
@options.indices
@options.img_size
@click.option("--size", help="Size of the images: 224 or 333x257.")
@click.option("--dynamic-size", is_flag=True, help="Take any height and width.")
@options.as_json
def export(
    model: str,
    out: Path,
    random_weights: bool,
    weights: str | None,
    strides: str | None,
    indices: str | None,
    img_size: str | None,
    size: str | None,
    dynamic_size: bool,
    as_json: bool,
) -> None:
    """Write a backbone as an ONNX file and check it with onnxruntime. Needs autobackbone[onnx]."""
    from autobackbone.create import create_feature_backbone
    from autobackbone.export import export_onnx

    backbone = create_feature_backbone(
        model, **weights_fields(weights, random_weights), **level_fields(strides, indices, img_size)
    )
    export_onnx(backbone, out, image_size("--size", size), dynamic_size=dynamic_size)
    if as_json:
        levels = [asdict(level) for level in backbone.levels]
        print(json.dumps({"file": str(out), "random_weights": random_weights, "levels": levels}))  # noqa: T201
        return
    note = "RANDOM WEIGHTS, untrained" if random_weights else ""
    print_levels(new_console(), backbone.levels, title=backbone.config.model_name, note=note)
    print(out)  # noqa: T201
