"""The command ``info``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from autobackbone.cli import options
from autobackbone.cli.cards import HEADINGS, facts, figures, fill, sizes, source_of_figures
from autobackbone.cli.options import complete_name, level_fields, new_console, print_fitted, print_levels

if TYPE_CHECKING:
    from rich.console import Console

_LESSER = ("throughput", "size", "license", "top1")  # columns left out on a narrow terminal, in this order


@click.command()
@click.argument("name", shell_complete=complete_name)
@options.strides
@options.indices
@options.img_size
@options.device
@options.as_json
def info(name: str, strides: str | None, indices: str | None, img_size: str | None, device: str, as_json: bool) -> None:
    """Show levels, input, license, published figures and weights of a backbone, and how to create it."""
    from autobackbone.catalog.describe import preview, summarize
    from autobackbone.config import FeatureBackboneConfig

    asked = level_fields(strides, indices, img_size)
    FeatureBackboneConfig(name, pretrained=False, **asked)  # raises an error if the request is wrong
    chosen = () if img_size else (asked["out_indices"], asked["out_strides"])
    card, levels, spec = preview(name, *chosen)
    if img_size is not None:  # a size can also change the levels
        with options.loading():
            import torch

            from autobackbone.create import create_feature_backbone
        with torch.device("meta"):  # nothing is computed or downloaded
            backbone = create_feature_backbone(name, pretrained=False, **asked)
        levels, spec = backbone.levels, backbone.input_spec
    weights = [summarize(tagged, device) for tagged in card.pretrained_tags]
    if as_json:
        request = {"levels": [asdict(level) for level in levels], "input_spec": spec.to_dict()}
        print(json.dumps(card.to_dict() | {"weights": weights, "request": request}))  # noqa: T201
        return
    from rich.markup import escape

    console = new_console()
    print_levels(console, levels, title=card.name)
    published = figures(card, device)
    lines = facts(card) | {
        "input": f"{spec.in_chans} channels, {sizes(card, spec)}",
        "": f"mean {spec.mean}, std {spec.std}",
        " ": f"{spec.interpolation}, crop {spec.crop_pct} {spec.crop_mode}",
        **published,
        **({"used by": ", ".join(f"{use.method} ({use.task})" for use in card.used_by)} if card.used_by else {}),
    }
    console.print("\n".join(f"{key:13}{escape(value)}" for key, value in lines.items()), soft_wrap=True)
    if weights:
        _print_weights(console, weights)
    else:
        console.print(f"{'weights':13}none published")
    if published:
        console.print(source_of_figures(), style="dim", soft_wrap=True)
    fields = "".join(f", {key}={value!r}" for key, value in asked.items() if value is not None)
    console.print(
        "\nfrom autobackbone import create_feature_backbone\n"
        f"backbone = create_feature_backbone({escape(repr(card.name))}{escape(fields)}"
        f"{'' if weights else ', pretrained=False'})",
        soft_wrap=True,
    )


def _print_weights(console: "Console", weights: list[dict[str, Any]]) -> None:
    from rich.table import Table

    keys = ("name", "license", "size", "top1", "throughput")
    columns = [key for key in keys if any(row[key] is not None for row in weights)]

    def build(shown: Sequence[str], *, framed: bool) -> Table:
        look: dict[str, Any] = {} if framed else {"box": None, "pad_edge": False}
        table = Table(**look)
        fill(table, weights, shown, HEADINGS | {"name": "weights"})
        return table

    print_fitted(console, build, columns, [key for key in _LESSER if key in columns])
