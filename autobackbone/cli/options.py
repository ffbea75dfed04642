"""Shared by the commands: options, their parsers, and the table of levels."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from autobackbone.catalog.figures import DEVICES
from autobackbone.errors import ConfigError, InputError
from autobackbone.levels import FeatureLevel

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from autobackbone.backbone import FeatureBackbone

    class _Build(Protocol):
        def __call__(self, shown: Sequence[str], *, framed: bool) -> Table: ...


def complete_name(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the model names that begin with a text; names with tags if it contains a point."""
    from autobackbone.catalog.query import list_backbones

    start = incomplete.lower()
    return [name for name in list_backbones(pretrained_only="." in start) if name.startswith(start)]


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
model = click.option("--model", "-m", required=True, shell_complete=complete_name, help="A model name.")
random_weights = click.option("--random-weights", is_flag=True, help="Untrained: no download.")
weights = click.option("--weights", help="A weights file.")
strides = click.option("--strides", help="Strides of the levels, such as 4,8,16,32.")
indices = click.option("--indices", help="Native levels, such as 1,2,3 or -1.")
device = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=DEVICES[0],
    show_default=True,
    help="Where images/s were published of.",
)
img_size = click.option("--img-size", help="Size to build for: 224 or 333x257 (height x width).")


def backbone(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which backbone to create."""
    for option in reversed((model, random_weights, weights, strides, indices, img_size)):
        command = option(command)
    return command


def create(
    model: str,
    *,
    random_weights: bool,
    weights: str | None,
    strides: str | None,
    indices: str | None,
    img_size: str | None,
) -> "FeatureBackbone":
    """Create the backbone that the options of `backbone` say."""
    fields = weights_fields(weights, random_weights)
    levels = level_fields(strides, indices, img_size)
    with loading():  # torch takes seconds to import; options are checked first
        from autobackbone.create import create_feature_backbone
    return create_feature_backbone(model, **fields, **levels)


_LESSER_OF_LEVELS = ("module", "exact", "index", "shape")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def level_fields(strides: str | None, indices: str | None, img_size: str | None) -> dict[str, Any]:
    """Return the config fields for the levels and the size to build for."""
    return {
        "out_strides": None if strides is None else integers("--strides", strides, ","),
        "out_indices": None if indices is None else integers("--indices", indices, ","),
        "img_size": image_size("--img-size", img_size),
    }


def image_size(option: str, text: str | None) -> Any:
    """Parse ``224`` or ``333x257``."""
    numbers = None if text is None else integers(option, text, "x")
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers


def integers(option: str, text: str, separator: str) -> tuple[int, ...]:
    """Parse integers. Raise InputError if a part is not one."""
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as err:
        msg = f"{option} {text!r} is not integers separated by {separator!r}."
        raise InputError(msg) from err


def number(option: str, text: str | None) -> float | None:
    """Parse a number, perhaps with a unit: ``30M``, ``1.5B``, ``25e6``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmgb]?)", text.strip().lower())
    if match is None:
        msg = f"{option} {text!r} is no number; write one such as 30M, 1.5B or 25e6."
        raise InputError(msg)
    return float(match[1]) * _UNITS[match[2]]


def words(text: str | None) -> tuple[str, ...] | None:
    """Split a text at its commas."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def by(size: Sequence[int]) -> str:
    """Return a height and a width as text."""
    return f"{size[0]}x{size[1]}"


def new_console() -> "Console":
    """Return the console for tables. In a pipe it has a large fixed width."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def print_fitted(console: "Console", build: "_Build", columns: Sequence[str], lesser: Sequence[str] = ()) -> list[str]:
    """Print a table without the columns that do not fit on a narrow terminal.

    Parameters
    ----------
    console
        The console to print to.
    build
        Builds the table from some of the columns, with or without a frame.
    columns
        All columns. The first one is always shown.
    lesser
        Columns to leave out, in this order.

    Returns
    -------
    list of str
        The columns that were left out.
    """
    shown, width = list(columns), console.width
    for heading in (None, *lesser):
        if heading is not None:
            shown.remove(heading)
        table = next(
            (t for framed in (True, False) if _width(console, t := build(shown, framed=framed)) <= width), None
        )
        if table is not None:
            break
    else:
        table = build(shown, framed=False)
        console.width = _width(console, table)  # the terminal breaks the lines, and nothing is cut off
    console.print(table)
    console.width = width
    return [column for column in columns if column not in shown]


def _width(console: "Console", table: "Table") -> int:
    """Return how many characters the lines of a table have."""
    wide = console.options.update(width=10_000)
    return console.measure(table, options=wide).maximum


@contextmanager
def loading() -> Iterator[None]:
    """Show on a terminal that libraries are imported, which takes seconds."""
    if "torch" in sys.modules or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("importing torch"):
        yield


def print_levels(
    console: "Console", levels: Sequence[FeatureLevel], *, title: str, note: str = "", shapes: Any = None
) -> None:
    """Print levels as a table, with the columns that fit."""
    from rich.markup import escape
    from rich.table import Table

    rows = [
        {
            "level": level.name,
            "index": str(level.index),
            "channels": str(level.channels),
            "stride": str(level.stride),
            "exact": "yes" if level.exact else "resampled",
            "module": level.module,
        }
        | ({} if shapes is None else {"shape": str(shapes[i])})
        for i, level in enumerate(levels)
    ]

    def build(shown: Sequence[str], *, framed: bool) -> Table:
        look: dict[str, Any] = {} if framed else {"box": None, "pad_edge": False}
        table = Table(title=escape(title), caption=note or None, caption_style="bold red", title_justify="left", **look)
        for column in shown:
            table.add_column(column, justify="right" if column in ("index", "channels", "stride") else "left")
        for row in rows:
            table.add_row(*(row[column] for column in shown))
        return table

    columns = list(rows[0])
    print_fitted(console, build, columns, [column for column in _LESSER_OF_LEVELS if column in columns])


def weights_fields(weights: str | None, random_weights: bool) -> dict[str, Any]:
    """Return the config fields for the weights to load. Raise ConfigError if both options are used."""
    if random_weights and weights is not None:
        msg = "--random-weights and --weights exclude each other; give one of them."
        raise ConfigError(msg)
    return {"pretrained": not random_weights and weights is None, "weights": weights}
