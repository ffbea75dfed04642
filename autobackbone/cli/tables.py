"""Shared by the commands that read a table of features: opening it, and its options."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from autobackbone.cli.options import loading

if TYPE_CHECKING:
    from rich.console import Console

    from autobackbone.extraction.table import FeatureTable

output = click.argument("out", metavar="TABLE")
column = click.option("--column", help="The features to compare, such as c5_mean, if there are several.")


def open_table(out: str) -> "FeatureTable":
    """Open a table of features."""
    with loading():  # torch takes seconds to import; options are checked first
        from autobackbone.extract import open_features
    return open_features(out)


def print_note(console: "Console", note: str) -> None:
    """Print what has to be said of the weights, if anything."""
    if note:
        console.print(note, style="bold red", soft_wrap=True)


def print_json(values: Mapping[str, Any]) -> None:
    """Print an answer as JSON."""
    print(json.dumps(values))  # noqa: T201
