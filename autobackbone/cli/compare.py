"""The command ``compare``."""

import json
from typing import TYPE_CHECKING

import click

from autobackbone.cli import options
from autobackbone.cli.cards import facts, sizes
from autobackbone.cli.options import complete_name, new_console

if TYPE_CHECKING:
    from autobackbone.catalog.card import BackboneCard

_NARROWEST = 16  # minimum characters in a column


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
    rows = [
        facts(card)
        | {"input": sizes(card, card.input_spec)}
        | {f"stride {stride}": _channels(card, stride) for stride in strides}
        | {"weights": str(len(card.pretrained_tags))}
        for card in cards
    ]
    console = new_console()
    if console.width // (len(cards) + 1) < _NARROWEST:  # one below another
        for card, values in zip(cards, rows, strict=True):
            console.print(card.name, style="bold", soft_wrap=True)
            for key, value in values.items():
                if value:
                    console.print(f"  {key:10}{value}", soft_wrap=True, markup=False)
        return
    table = Table("", *(Column(card.name, overflow="fold") for card in cards))
    for key in rows[0]:
        table.add_row(key, *(values[key] for values in rows))
    console.print(table)


def _channels(card: "BackboneCard", stride: int) -> str:
    channels = [level.channels for level in card.levels if level.stride == stride]
    alike = {c: channels.count(c) for c in channels}
    return ", ".join(f"{c} channels" + (f" x {n} levels" if n > 1 else "") for c, n in alike.items())
