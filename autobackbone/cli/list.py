"""The command ``list``."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from autobackbone.cli import options
from autobackbone.cli.cards import COLUMNS
from autobackbone.cli.options import complete_name, integers, new_console, number, print_fitted, words

if TYPE_CHECKING:
    from rich.table import Table

_NUMBERS = ("params", "macs", "weights")
# Columns left out on a narrow terminal, in this order.
_LESSER, _LAST = ("family", "weights", "any_size", "license"), ("strides", "size", "macs", "params")


@click.command("list")
@click.argument("pattern", default="", shell_complete=complete_name)
@click.option("--pretrained", is_flag=True, help="Only published weights, by tag.")
@click.option("--source", help="timm or dinov3.")
@click.option("--family", help="Families, such as resnet,convnext.")
@click.option("--strides", help="Native strides to have, such as 4,8,16,32.")
@click.option("--min-params", help="Fewest parameters, such as 5M.")
@click.option("--max-params", help="Most parameters, such as 30M.")
@click.option("--any-size/--fixed-size", default=None, help="Takes any size, or the one it is built for.")
@click.option("--license", "license_", help="Licenses, such as apache-2.0,mit.")
@click.option("--sort", type=click.Choice(list(COLUMNS)), default="name", help="Column to sort by.")
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
    if sort != "name":  # names are already sorted; unknown values come last
        sorted_rows = sorted((row for row in rows if row[sort] is not None), key=lambda row: row[sort], reverse=reverse)
        rows = sorted_rows + [row for row in rows if row[sort] is None]
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


def _page(rows: list[dict[str, Any]]) -> None:
    """Print the list as a table, through the pager if it is longer than the screen."""
    console = new_console()

    def build(shown: Sequence[str], *, framed: bool) -> "Table":  # noqa: ARG001 - a list has no frame
        return _rows(rows, shown)

    if len(rows) + 2 < console.height:
        print_fitted(console, build, list(COLUMNS), _LESSER, _LAST)
    else:
        from autobackbone.cli.pager import Pager

        with console.pager(Pager()):
            print_fitted(console, build, list(COLUMNS), _LESSER, _LAST)


def _rows(rows: list[dict[str, Any]], shown: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in shown:
        justify: Literal["left", "right"] = "right" if heading in _NUMBERS else "left"
        table.add_column(heading.replace("_", " "), justify=justify, no_wrap=heading != "name", overflow="fold")
    for row in rows:
        table.add_row(*("" if row[key] is None else COLUMNS[key](row[key]) for key in shown))
    return table


def _hint(pattern: str) -> str:
    from autobackbone.catalog.query import nearest_names

    close = [] if set("*?[") & set(pattern) else nearest_names(pattern)
    if pattern.lower() in map(str.lower, close):
        return f" {pattern!r}, which are weights; list those with --pretrained."
    return f" {pattern!r}; did you mean {', '.join(close)}?" if close else f" {pattern!r}." if pattern else "."
