"""The command line: list, info, features, export, catalog build."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autobackbone.errors import BackboneError, ConfigError, InputError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Vision backbones, one contract."
)
catalog_app = typer.Typer(no_args_is_help=True, help="The catalogue of facts about architectures.")
app.add_typer(catalog_app, name="catalog")

_UsageError: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]  # has no public name

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model name.")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="Untrained: no download.")]
Weights = Annotated[str | None, typer.Option("--weights", help="A weights file.")]
Strides = Annotated[str | None, typer.Option("--strides", help="Strides of the levels, such as 4,8,16,32.")]
Indices = Annotated[str | None, typer.Option("--indices", help="Native levels, such as 1,2,3 or -1.")]
Size = Annotated[str | None, typer.Option("--img-size", help="Size to build for: 224 or 333x257 (height x width).")]


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except _UsageError as err:
        print(f"autobackbone: {err.format_message()} See --help.", file=sys.stderr)  # type: ignore[attr-defined]  # noqa: T201
        sys.exit(2)
    except (BackboneError, OSError) as err:
        print(f"autobackbone: {' '.join(str(err).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="A glob such as '*resnet*'; nothing for all.")] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only published weights, by tag.")] = False,
    as_json: Json = False,
) -> None:
    """List backbones by name."""
    from autobackbone.catalog import list_backbones

    names = list_backbones(pattern, pretrained_only=pretrained)
    if as_json:
        print(json.dumps(names))  # noqa: T201
    elif names:
        print("\n".join(names))  # noqa: T201
    else:
        msg = f"No backbone matches {pattern!r}; use a glob such as '*{pattern.strip('*')[:6]}*'."
        raise BackboneError(msg)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A model name.")],
    strides: Strides = None,
    indices: Indices = None,
    img_size: Size = None,
    as_json: Json = False,
) -> None:
    """Show levels, input, licence and published weights of a backbone."""
    import torch

    from autobackbone.catalog import published
    from autobackbone.create import create_feature_backbone

    with torch.device("meta"):  # nothing is computed, nothing downloaded
        backbone = create_feature_backbone(name, pretrained=False, **_levels(strides, indices, img_size))
    card = published(name)
    if as_json:
        levels = [asdict(level) for level in backbone.levels]
        print(json.dumps({**card, "levels": levels, "input": backbone.input_spec.to_dict()}))  # noqa: T201
        return
    console = Console()
    console.print(_table(backbone.levels, title=card["name"]))
    spec = backbone.input_spec
    console.print(
        f"input    {spec.in_chans} channels, {_by(spec.size)}"
        + (
            " only (another with --img-size)"
            if spec.fixed_size
            else f" by default, any size from {spec.min_size}x{spec.min_size}, padded to multiples of {spec.divisor}"
        )
    )
    console.print(f"         mean {spec.mean}, std {spec.std}", highlight=False)
    console.print(f"         {spec.interpolation}, crop {spec.crop_pct} {spec.crop_mode}", highlight=False)
    console.print(f"licence  {escape(card['license'] or 'not stated')}")
    console.print(f"weights  {escape(', '.join(card['tags']) or 'none published')}", highlight=False)


@app.command()
def features(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the picture.")],
    random_weights: RandomWeights = False,
    weights: Weights = None,
    strides: Strides = None,
    indices: Indices = None,
    img_size: Size = None,
    max_side: Annotated[int, typer.Option(min=32, help="Shrink larger images to it.")] = 1024,
    as_json: Json = False,
) -> None:
    """Run a backbone on an image: the levels, and a picture of each level's features."""
    from autobackbone.picture import draw, load_image, load_tensor

    pixels = load_image(image)
    import torch

    from autobackbone.create import create_feature_backbone

    loading = _weights(weights, random_weights)
    if out.exists() and not out.is_dir():
        msg = f"--out {str(out)!r} is a file; name a folder."
        raise InputError(msg)
    backbone = create_feature_backbone(model, **loading, **_levels(strides, indices, img_size)).eval()
    spec = backbone.input_spec
    x, shown = load_tensor(pixels, spec, max_side)
    with torch.no_grad():
        maps = backbone(x)
    note = "RANDOM WEIGHTS, untrained" if random_weights else ""
    title = f"{backbone.config.model_name} on {image.name}, {_by((shown.height, shown.width))}"
    picture = draw(shown, backbone.levels, maps, f"{title}{', ' + note if note else ''}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{image.stem}-{_safe(model)}.png"
    picture.save(path)
    shapes = [tuple(y.shape) for y in maps]
    if as_json:
        rows = [asdict(level) | {"shape": shape} for level, shape in zip(backbone.levels, shapes, strict=True)]
        answer = {"picture": str(path), "random_weights": random_weights, "input": list(x.shape), "levels": rows}
        print(json.dumps(answer))  # noqa: T201
        return
    console = Console()
    console.print(_table(backbone.levels, title=title, note=note, shapes=shapes))
    if shown.size != pixels.size:
        console.print(f"the image was resized from {_by((pixels.height, pixels.width))}", highlight=False)
    print(path)  # noqa: T201


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    random_weights: RandomWeights = False,
    weights: Weights = None,
    strides: Strides = None,
    indices: Indices = None,
    img_size: Size = None,
    size: Annotated[str | None, typer.Option("--size", help="Size of the images: 224 or 333x257.")] = None,
    dynamic_size: Annotated[bool, typer.Option("--dynamic-size", help="Take any height and width.")] = False,
    as_json: Json = False,
) -> None:
    """Write a backbone as an ONNX file, compared with onnxruntime. Needs autobackbone[onnx]."""
    from autobackbone.create import create_feature_backbone
    from autobackbone.inference import export_onnx

    backbone = create_feature_backbone(
        model, **_weights(weights, random_weights), **_levels(strides, indices, img_size)
    )
    export_onnx(backbone, out, _size("--size", size), dynamic_size=dynamic_size)
    if as_json:
        levels = [asdict(level) for level in backbone.levels]
        print(json.dumps({"file": str(out), "random_weights": random_weights, "levels": levels}))  # noqa: T201
        return
    note = "RANDOM WEIGHTS, untrained" if random_weights else ""
    Console().print(_table(backbone.levels, title=backbone.config.model_name, note=note))
    print(out)  # noqa: T201


@catalog_app.command("build")
def catalog_build(
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again.")] = False,
    path: Annotated[Path | None, typer.Option("--path", help="File to write; the package's own by default.")] = None,
) -> None:
    """Measure every architecture of the installed timm on the meta device."""
    from rich.progress import Progress

    from autobackbone.catalog import build

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task("measuring")

    def show(done: int, total: int, name: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, description=f"{name:40.40}")

    try:
        written = build(path, fresh=fresh, progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    print(written)  # noqa: T201


def _weights(weights: str | None, random_weights: bool) -> dict[str, Any]:
    if random_weights and weights is not None:
        msg = "--random-weights and --weights exclude each other; give one of them."
        raise ConfigError(msg)
    return {"pretrained": not random_weights and weights is None, "weights": weights}


def _levels(strides: str | None, indices: str | None, img_size: str | None) -> dict[str, Any]:
    return {
        "out_strides": None if strides is None else _integers("--strides", strides, ","),
        "out_indices": None if indices is None else _integers("--indices", indices, ","),
        "img_size": _size("--img-size", img_size),
    }


def _size(option: str, text: str | None) -> Any:
    numbers = None if text is None else _integers(option, text, "x")
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers


def _integers(option: str, text: str, separator: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as err:
        msg = f"{option} {text!r} is not integers separated by {separator!r}."
        raise InputError(msg) from err


def _table(levels: Any, *, title: str, note: str = "", shapes: Any = None) -> Table:
    table = Table(title=escape(title), caption=note or None, caption_style="bold red", title_justify="left")
    for column in ("level", "index", "channels", "stride", "exact", "module"):
        table.add_column(column, justify="right" if column in ("index", "channels", "stride") else "left")
    if shapes is not None:
        table.add_column("shape")
    for i, level in enumerate(levels):
        exact = "yes" if level.exact else "resampled"
        row = [level.name, str(level.index), str(level.channels), str(level.stride), exact, level.module]
        table.add_row(*row, *([] if shapes is None else [str(shapes[i])]))
    return table


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
