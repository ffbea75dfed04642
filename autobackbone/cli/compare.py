"""The command ``compare``."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from autobackbone.catalog.figures import at_size
from autobackbone.cli import options
from autobackbone.cli.cards import facts, figures, sizes, source_of_figures
from autobackbone.cli.options import complete_name, new_console

if TYPE_CHECKING:
    from rich.console import Console

    from autobackbone.catalog.card import BackboneCard

_LARGEST = ("top-1", "img/s")  # better the larger they are; the others, the smaller
_NARROWEST = 16  # minimum characters in a column


@click.command()
@click.argument("names", nargs=-1, required=True, shell_complete=complete_name)
@options.device
@options.as_json
def compare(names: tuple[str, ...], device: str, as_json: bool) -> None:
    """Show backbones side by side, and mark the best of each row."""
    from autobackbone.catalog.describe import describe_backbone

    cards = [describe_backbone(name) for name in names]
    if as_json:
        print(json.dumps([card.to_dict() for card in cards]))  # noqa: T201
        return
    keys = ("params", "macs", "activations", "top-1", "img/s")
    rows = [_row(card, device) for card in cards]
    for key in keys:
        _mark_best(key, rows, [_value(card, key, device) for card in cards])
    console = new_console()
    if console.width // (len(cards) + 1) < _NARROWEST:
        _print_below(console, cards, rows)
    else:
        _print_beside(console, cards, rows)
    if len(cards) > 1:
        console.print("* the best of its row", style="dim", soft_wrap=True)
    if any({"top-1", "img/s"} & row.keys() for row in rows):
        console.print(source_of_figures(), style="dim", soft_wrap=True)


def _row(card: "BackboneCard", device: str) -> dict[str, str]:
    return (
        facts(card)
        | figures(card, device)
        | {"input": sizes(card, card.input_spec)}
        | {f"stride {stride}": _channels(card, stride) for stride in sorted(set(card.strides))}
        | {"weights": str(len(card.pretrained_tags))}
    )


def _value(card: "BackboneCard", key: str, device: str) -> float | None:
    """Return what can be better or worse of a backbone, at the size that its weights were trained for."""
    if key == "top-1":
        return getattr(at_size(card.accuracy, card.input_size), "top1", None)
    if key == "img/s":
        return getattr(at_size(card.throughput, card.input_size), device, None)
    return float(getattr(card, key))


def _mark_best(key: str, rows: list[dict[str, str]], values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    if len(rows) == 1 or not known:
        return
    best = (max if key in _LARGEST else min)(known)
    for row, value in zip(rows, values, strict=True):
        if value == best:
            row[key] += " *"


def _print_below(console: "Console", cards: Sequence["BackboneCard"], rows: Sequence[dict[str, str]]) -> None:
    """Print backbones one below another, on a narrow terminal."""
    for card, row in zip(cards, rows, strict=True):
        console.print(card.name, style="bold", soft_wrap=True)
        for key, value in row.items():
            console.print(f"  {key:13}{value}", soft_wrap=True, markup=False)


def _print_beside(console: "Console", cards: Sequence["BackboneCard"], rows: Sequence[dict[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    strides = sorted({stride for card in cards for stride in card.strides})
    keys = dict.fromkeys(key for row in rows for key in row if not key.startswith("stride "))
    keys |= dict.fromkeys(f"stride {stride}" for stride in strides)
    table = Table("", *(Column(card.name, overflow="fold") for card in cards))
    for key in keys:
        table.add_row(key, *(escape(row.get(key, "")) for row in rows))
    console.print(table)


def _channels(card: "BackboneCard", stride: int) -> str:
    channels = [level.channels for level in card.levels if level.stride == stride]
    alike = {c: channels.count(c) for c in channels}
    return ", ".join(f"{c} channels" + (f" x {n} levels" if n > 1 else "") for c, n in alike.items())
