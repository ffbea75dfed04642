"""The command ``list``."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autobackbone.cli import options
from autobackbone.cli.cards import COLUMNS, HEADINGS, fill, source_of_figures
from autobackbone.cli.options import complete_name, integers, new_console, number, print_fitted, words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_FOOTER = 5  # lines beside the rows: the heading, the count, what the figures are, the next prompt
# Columns left out on a narrow terminal, in this order.
_LESSER = (
    "activations",
    "family",
    "weights",
    "any_size",
    "license",
    "throughput",
    "strides",
    "size",
    "top1",
    "macs",
    "params",
)
# Columns that show what options ask for.
_ASKED = {
    "min_params": "params",
    "max_params": "params",
    "commercial": "license",
    "min_top1": "top1",
    "min_throughput": "throughput",
    "device": "throughput",
}


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
@click.option("--commercial/--not-commercial", default=None, help="Apache, MIT, BSD or CC BY licenses, or any other.")
@click.option("--used-by", help="Methods built on it, such as Mask2Former, or tasks, such as detection.")
@click.option("--min-top1", type=float, help="Least published top-1 accuracy on ImageNet-1k, in percent.")
@click.option("--min-throughput", help="Fewest published images a second on --device.")
@options.device
@click.option(
    "--sort",
    type=click.Choice(list(COLUMNS)),
    default="name",
    help="Column to sort by; the best top1 and throughput first.",
)
@click.option("--reverse", "-r", is_flag=True, help="Sort from the other end.")
@options.as_json
@click.pass_context
def list_command(
    context: click.Context,
    /,
    pattern: str,
    pretrained: bool,
    strides: str | None,
    family: str | None,
    min_params: str | None,
    max_params: str | None,
    license_: str | None,
    used_by: str | None,
    min_throughput: str | None,
    device: str,
    sort: str,
    as_json: bool,
    **same: Any,
) -> None:
    """List backbones: a table on a terminal, names alone in a pipe.

    PATTERN is a glob such as '*resnet*', or a part of a name.
    """
    from autobackbone.catalog.describe import summarize
    from autobackbone.catalog.query import list_backbones

    names = list_backbones(
        pattern,
        pretrained,
        family=words(family),
        strides=None if strides is None else integers("--strides", strides, ","),
        min_params=number("--min-params", min_params),
        max_params=number("--max-params", max_params),
        license=words(license_),
        used_by=words(used_by),
        min_throughput=number("--min-throughput", min_throughput),
        device=device,
        sort=sort,
        **same,
    )
    if as_json:
        print(json.dumps([summarize(name, device) for name in names]))  # noqa: T201
    elif not names:
        print(f"autobackbone: no backbone matches{_hint(pattern)}", file=sys.stderr)  # noqa: T201
    elif sys.stdout.isatty():
        given = (key for key in context.params if context.get_parameter_source(key) is ParameterSource.COMMANDLINE)
        asked = {sort, *(_ASKED.get(key, key.rstrip("_")) for key in given)}
        _page([summarize(name, device) for name in names], asked)
    else:
        print("\n".join(names))  # noqa: T201


def _page(rows: list[dict[str, Any]], asked: Iterable[str]) -> None:
    """Print the list as a table, through the pager if it is longer than the screen."""
    console = new_console()
    if len(rows) + _FOOTER < console.height:
        _print(console, rows, asked)
    else:
        from autobackbone.cli.pager import Pager

        with console.pager(Pager()):
            _print(console, rows, asked)


def _print(console: "Console", rows: list[dict[str, Any]], asked: Iterable[str]) -> None:
    def build(shown: Sequence[str], *, framed: bool) -> "Table":  # noqa: ARG001 - a list has no frame
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        fill(table, rows, shown, HEADINGS)
        return table

    hidden = print_fitted(console, build, list(COLUMNS), [column for column in _LESSER if column not in asked])
    names = [HEADINGS.get(column, column) for column in hidden]
    more = f"; {len(hidden)} column{'s' * (len(hidden) > 1)} hidden: {', '.join(names)}" if hidden else ""
    console.print(f"{len(rows)} backbone{'s' * (len(rows) > 1)}{more}", style="dim")
    if not {"top1", "throughput"} <= set(hidden):
        console.print(source_of_figures(), style="dim")


def _hint(pattern: str) -> str:
    from autobackbone.catalog.query import nearest_names

    close = [] if set("*?[") & set(pattern) else nearest_names(pattern)
    if pattern.lower() in map(str.lower, close):
        return f" {pattern!r}, which are weights; list those with --pretrained."
    return f" {pattern!r}; did you mean {', '.join(close)}?" if close else f" {pattern!r}." if pattern else "."
