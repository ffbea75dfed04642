"""Commands that find a backbone: list, info, compare, catalog build."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from autobackbone.cli import options
from autobackbone.cli.options import (
    by,
    complete_name,
    integers,
    level_fields,
    new_console,
    number,
    print_fitted,
    print_levels,
    words,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from autobackbone.catalog.query import BackboneCard

# Columns of the list: heading, and how a value is written.
_COLUMNS: dict[str, Callable[[Any], str]] = {
    "name": str,
    "family": str,
    "params": lambda count: f"{count / 1e6:.1f} M",
    "macs": lambda count: f"{count / 1e9:.2f} G",
    "strides": lambda strides: " ".join(map(str, strides)),
    "size": by,
    "any_size": lambda yes: "yes" if yes else "no",
    "license": str,
    "weights": str,
}
_NUMBERS = ("params", "macs", "weights")
# Left out where the terminal is narrow, in this order.
_LESSER, _LAST = ("family", "weights", "any_size", "license"), ("strides", "size", "macs", "params")
_NARROWEST = 16  # characters of a column of a comparison, at least


@click.command("list")
@click.argument("pattern", default="", shell_complete=complete_name)
@click.option("--pretrained", is_flag=True, help="Only published weights, by tag.")
@click.option("--source", help="timm or dinov3.")
@click.option("--family", help="Families, such as resnet,convnext.")
@click.option("--strides", help="Native strides to have, such as 4,8,16,32.")
@click.option("--min-params", help="Fewest parameters, such as 5M.")
@click.option("--max-params", help="Most parameters, such as 30M.")
@click.option("--any-size/--fixed-size", default=None, help="Takes any size, or the one it is built for.")
@click.option("--license", "license_", help="Licences, such as apache-2.0,mit.")
@click.option("--sort", type=click.Choice(list(_COLUMNS)), default="name", help="Column to sort by.")
@click.option("--reverse", "-r", is_flag=True, help="Sort from the largest down.")
@options.as_json
def list_command(
    pattern: str,
    pretrained: bool,
    source: str | None,
    family: str | None,
    strides: str | None,
    min_params: str | None,
    max_params: str | None,
    any_size: bool | None,
    license_: str | None,
    sort: str,
    reverse: bool,
    as_json: bool,
) -> None:
    """List backbones: a table on a terminal, names alone in a pipe.

    PATTERN is a glob such as '*resnet*', or a part of a name.
    """
    from autobackbone.catalog.query import list_backbones, summarize

    names = list_backbones(
        pattern,
        pretrained,
        source=source,
        family=words(family),
        strides=None if strides is None else integers("--strides", strides, ","),
        min_params=number("--min-params", min_params),
        max_params=number("--max-params", max_params),
        any_size=any_size,
        license=words(license_),
    )
    shows = as_json or sys.stdout.isatty()
    rows = [summarize(name) for name in names] if shows or sort != "name" else [{"name": name} for name in names]
    if sort != "name":  # names come sorted; what is not known comes last
        known = sorted((row for row in rows if row[sort] is not None), key=lambda row: row[sort], reverse=reverse)
        rows = known + [row for row in rows if row[sort] is None]
    elif reverse:
        rows.reverse()
    if as_json:
        print(json.dumps(rows))  # noqa: T201
    elif not rows:
        print(f"autobackbone: no backbone matches{_hint(pattern)}", file=sys.stderr)  # noqa: T201
    elif shows:
        _page(rows)
    else:
        print("\n".join(row["name"] for row in rows))  # noqa: T201


@click.command()
@click.argument("name", shell_complete=complete_name)
@options.strides
@options.indices
@options.img_size
@options.as_json
def info(name: str, strides: str | None, indices: str | None, img_size: str | None, as_json: bool) -> None:
    """Show levels, input, licence and published weights of a backbone, and how to create it."""
    from autobackbone.catalog.query import preview, summarize
    from autobackbone.config import FeatureBackboneConfig

    asked = level_fields(strides, indices, img_size)
    FeatureBackboneConfig(name, pretrained=False, **asked)  # says what is wrong with the request
    chosen = () if img_size else (asked["out_indices"], asked["out_strides"])
    card, levels, spec = preview(name, *chosen)
    if img_size is not None:  # a size can change more than itself
        import torch

        from autobackbone.create import create_feature_backbone

        with torch.device("meta"):  # nothing is computed, nothing downloaded
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
    console.print("\n".join(f"{key:9}{escape(value)}" for key, value in _facts(card).items()), soft_wrap=True)
    console.print(f"{'input':9}{spec.in_chans} channels, {_sizes(card, spec)}", soft_wrap=True)
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


@click.command()
@click.argument("names", nargs=-1, required=True, shell_complete=complete_name)
@options.as_json
def compare(names: tuple[str, ...], as_json: bool) -> None:
    """Show backbones side by side."""
    from autobackbone.catalog.query import describe_backbone

    cards = [describe_backbone(name) for name in names]
    if as_json:
        print(json.dumps([card.to_dict() for card in cards]))  # noqa: T201
        return
    from rich.table import Column, Table

    strides = sorted({stride for card in cards for stride in card.strides})
    facts = [
        _facts(card)
        | {"input": _sizes(card, card.input_spec)}
        | {f"stride {stride}": _channels(card, stride) for stride in strides}
        | {"weights": str(len(card.pretrained_tags))}
        for card in cards
    ]
    console = new_console()
    if console.width // (len(cards) + 1) < _NARROWEST:  # one under another
        for card, values in zip(cards, facts, strict=True):
            console.print(card.name, style="bold", soft_wrap=True)
            for key, value in values.items():
                if value:
                    console.print(f"  {key:10}{value}", soft_wrap=True, markup=False)
        return
    table = Table("", *(Column(card.name, overflow="fold") for card in cards))
    for key in facts[0]:
        table.add_row(key, *(values[key] for values in facts))
    console.print(table)


@click.command()
@click.option("--fresh", is_flag=True, help="Measure everything again.")
@click.option("--path", type=click.Path(path_type=Path), help="File to write; by default one in the user's cache.")
def build(fresh: bool, path: Path | None) -> None:
    """Measure every backbone of the installed timm on the meta device, on every core."""
    from rich.console import Console
    from rich.progress import Progress

    from autobackbone.catalog import survey

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task("measuring")

    def show(done: int, total: int, name: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, description=f"{name:50.50}")

    try:
        written = survey.build(path, fresh=fresh, progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    print(written)  # noqa: T201


def _page(rows: list[dict[str, Any]]) -> None:
    """Print the list as a table, through the pager if it is longer than the screen."""
    console = new_console()

    def build(shown: Sequence[str], *, framed: bool) -> "Table":  # noqa: ARG001 - a list has no frame
        return _rows(rows, shown)

    if len(rows) + 2 < console.height:
        print_fitted(console, build, list(_COLUMNS), _LESSER, _LAST)
    else:
        from autobackbone.cli.pager import Pager

        with console.pager(Pager()):
            print_fitted(console, build, list(_COLUMNS), _LESSER, _LAST)


def _print_weights(console: "Console", weights: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    rows = [(escape(row["name"]), escape(row["license"] or "not stated"), by(row["size"])) for row in weights]
    columns = ("weights", "licence", "size")

    def build(shown: Sequence[str], *, framed: bool) -> Table:
        look: dict[str, Any] = {} if framed else {"box": None, "pad_edge": False}
        table = Table(**look)
        for column in shown:
            table.add_column(column, no_wrap=column != "weights", overflow="fold")
        for row in rows:
            table.add_row(*(row[columns.index(column)] for column in shown))
        return table

    print_fitted(console, build, columns, last=("licence", "size"))


def _rows(rows: list[dict[str, Any]], shown: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in shown:
        justify: Literal["left", "right"] = "right" if heading in _NUMBERS else "left"
        table.add_column(heading.replace("_", " "), justify=justify, no_wrap=heading != "name", overflow="fold")
    for row in rows:
        table.add_row(*("" if row[key] is None else _COLUMNS[key](row[key]) for key in shown))
    return table


def _hint(pattern: str) -> str:
    from autobackbone.catalog.query import nearest_names

    close = [] if set("*?[") & set(pattern) else nearest_names(pattern)
    return f" {pattern!r}; did you mean {', '.join(close)}?" if close else f" {pattern!r}." if pattern else "."


def _facts(card: "BackboneCard") -> dict[str, str]:
    return {
        "family": f"{card.family} ({card.source})",
        "params": _COLUMNS["params"](card.params),
        "macs": f"{_COLUMNS['macs'](card.macs)} at the default size",
        "strides": ", ".join(map(str, dict.fromkeys(card.strides))),
        "export": "yes" if card.exportable else "no",
        "licence": card.license or "not stated",
        "hub": card.hub_id or "none",
    }


def _sizes(card: "BackboneCard", spec: Any) -> str:
    if not spec.fixed_size:
        padded = f", padded to multiples of {spec.divisor}" if spec.divisor > 1 else ""
        return f"{by(spec.size)} by default, any size from {spec.min_size}x{spec.min_size}{padded}"
    return f"{by(spec.size)} only" + (" (another with img_size)" if card.divisor else "")


def _channels(card: "BackboneCard", stride: int) -> str:
    channels = [level.channels for level in card.levels if level.stride == stride]
    alike = {c: channels.count(c) for c in channels}
    return ", ".join(f"{c} channels" + (f" x {n} levels" if n > 1 else "") for c, n in alike.items())
