"""What the commands share: options, how they are read, and how levels are shown."""

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from autobackbone.errors import InputError
from autobackbone.levels import FeatureLevel

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def complete_name(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the model names that begin like this; those with tags once there is a point."""
    from autobackbone.discovery import list_backbones

    start = incomplete.lower()
    return [name for name in list_backbones(pretrained_only="." in start) if name.startswith(start)]


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
model = click.option("--model", "-m", required=True, shell_complete=complete_name, help="A model name.")
random_weights = click.option("--random-weights", is_flag=True, help="Untrained: no download.")
weights = click.option("--weights", help="A weights file.")
strides = click.option("--strides", help="Strides of the levels, such as 4,8,16,32.")
indices = click.option("--indices", help="Native levels, such as 1,2,3 or -1.")
img_size = click.option("--img-size", help="Size to build for: 224 or 333x257 (height x width).")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def level_fields(strides: str | None, indices: str | None, img_size: str | None) -> dict[str, Any]:
    """Return the config's fields that say which levels, and for which size."""
    return {
        "out_strides": None if strides is None else integers("--strides", strides, ","),
        "out_indices": None if indices is None else integers("--indices", indices, ","),
        "img_size": image_size("--img-size", img_size),
    }


def image_size(option: str, text: str | None) -> Any:
    """Read ``224`` or ``333x257``."""
    numbers = None if text is None else integers(option, text, "x")
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers


def integers(option: str, text: str, separator: str) -> tuple[int, ...]:
    """Read integers; InputError if that is not what they are."""
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as err:
        msg = f"{option} {text!r} is not integers separated by {separator!r}."
        raise InputError(msg) from err


def number(option: str, text: str | None) -> float | None:
    """Read a number with a unit: ``30M``, ``1.5B``, ``25e6``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmgb]?)", text.strip().lower())
    if match is None:
        msg = f"{option} {text!r} is no number; write one such as 30M, 1.5B or 25e6."
        raise InputError(msg)
    return float(match[1]) * _UNITS[match[2]]


def words(text: str | None) -> tuple[str, ...] | None:
    """Read what is separated by commas."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def by(size: Sequence[int]) -> str:
    """Write a height and a width."""
    return f"{size[0]}x{size[1]}"


def new_console() -> "Console":
    """Return where tables are printed: in a pipe they are as wide as they are."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def level_table(levels: Sequence[FeatureLevel], *, title: str, note: str = "", shapes: Any = None) -> "Table":
    """Return levels as a table to print."""
    from rich.markup import escape
    from rich.table import Table

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
