"""The command ``features``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from autobackbone.cli import options
from autobackbone.cli.options import by, new_console, print_levels
from autobackbone.errors import InputError


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@options.backbone
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder for the picture.")
@click.option("--max-side", type=click.IntRange(min=32), default=1024, show_default=True, help="Shrink larger images.")
@options.as_json
def features(
    image: Path,
    model: str,
    out: Path,
    max_side: int,
    as_json: bool,
    random_weights: bool,
    **backbone_options: Any,
) -> None:
    """Run a backbone on an image: print the levels, and draw the features of each level."""
    from autobackbone.cli.picture import draw, load_image, load_tensor

    pixels = load_image(image)
    if out.exists() and not out.is_dir():
        msg = f"--out {str(out)!r} is a file; name a folder."
        raise InputError(msg)
    backbone = options.create(model, **backbone_options, random_weights=random_weights).eval()
    import torch

    spec = backbone.input_spec
    x, shown = load_tensor(pixels, spec, max_side)
    with torch.no_grad():
        maps = backbone(x)
    note = "RANDOM WEIGHTS, untrained" if random_weights else ""
    title = f"{backbone.config.model_name} on {image.name}, {by((shown.height, shown.width))}"
    picture = draw(shown, backbone.levels, maps, f"{title}{', ' + note if note else ''}")
    out.mkdir(parents=True, exist_ok=True)
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in model)
    path = out / f"{image.stem}-{safe}.png"
    picture.save(path)
    shapes = [tuple(y.shape) for y in maps]
    if as_json:
        rows = [asdict(level) | {"shape": shape} for level, shape in zip(backbone.levels, shapes, strict=True)]
        answer = {"picture": str(path), "random_weights": random_weights, "input": list(x.shape), "levels": rows}
        print(json.dumps(answer))  # noqa: T201
        return
    console = new_console()
    print_levels(console, backbone.levels, title=title, note=note, shapes=shapes)
    if shown.size != pixels.size:
        console.print(f"the image was resized from {by((pixels.height, pixels.width))}")
    print(path)  # noqa: T201
