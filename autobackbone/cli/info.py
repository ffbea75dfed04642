"""The command ``info``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from autobackbone.cli import options
from autobackbone.cli.cards import facts, sizes
from autobackbone.cli.options import by, complete_name, level_fields, new_console, print_fitted, print_levels

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("name", shell_complete=complete_name)
@options.strides
@options.indices
@options.img_size
@options.as_json
def info(name: str, strides: str | None, indices: str | None, img_size: str | None, as_json: bool) -> None:
    """Show levels, input, license and published weights of a backbone, and how to create it."""
    from autobackbone.catalog.query import preview, summarize
    from autobackbone.config import FeatureBackboneConfig

    asked = level_fields(strides, indices, img_size)
    FeatureBackboneConfig(name, pretrained=False, **asked)  # raises an error if the request is wrong
    chosen = () if img_size else (asked["out_indices"], asked["out_strides"])
    card, levels, spec = preview(name, *chosen)
    if img_size is not None:  # a size can also change the levels
        import torch

        from autobackbone.create import create_feature_backbone

        with torch.device("meta"):  # nothing is computed or downloaded
            backbone = create_feature_backbone(name, pretrained=False, **asked)
        levels, spec = backbone.levels, backbone.input_spec
    weights = [summarize(tagged) for tagged in card.pretrained_tags]
    if as_json:
        request = {"levels": [asdict(level) for level in levels], "input_spec": spec.to_dict()}
        print(json.dumps(card.to_dict() | {"weights": weights, "request": request}))  # noqa: T201
        return
    from rich.markup import escape

    console = new_console()
    print_levels(console, levels, title=card.name)
    console.print("\n".join(f"{key:9}{escape(value)}" for key, value in facts(card).items()), soft_wrap=True)
    console.print(f"{'input':9}{spec.in_chans} channels, {sizes(card, spec)}", soft_wrap=True)
    console.print(f"{'':9}mean {spec.mean}, std {spec.std}", soft_wrap=True)
    console.print(f"{'':9}{spec.interpolation}, crop {spec.crop_pct} {spec.crop_mode}", soft_wrap=True)
    if weights:
        _print_weights(console, weights)
    else:
        console.print(f"{'weights':9}none published")
    fields = "".join(f", {key}={value!r}" for key, value in asked.items() if value is not None)
    console.print(
        "\nfrom autobackbone import create_feature_backbone\n"
        f"backbone = create_feature_backbone({escape(repr(card.name))}{escape(fields)}"
        f"{'' if weights else ', pretrained=False'})",
        soft_wrap=True,
    )


def _print_weights(console: "Console", weights: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    rows = [(escape(row["name"]), escape(row["license"] or "not stated"), by(row["size"])) for row in weights]
    columns = ("weights", "license", "size")

    def build(shown: Sequence[str], *, framed: bool) -> Table:
        look: dict[str, Any] = {} if framed else {"box": None, "pad_edge": False}
        table = Table(**look)
        for column in shown:
            table.add_column(column, no_wrap=column != "weights", overflow="fold")
        for row in rows:
            table.add_row(*(row[columns.index(column)] for column in shown))
        return table

    print_fitted(console, build, columns, last=("license", "size"))
