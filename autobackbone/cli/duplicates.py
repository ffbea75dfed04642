"""The command ``duplicates``."""

import math
from collections import Counter
from typing import TYPE_CHECKING

import click

from autobackbone.cli import options, tables
from autobackbone.cli.options import new_console

if TYPE_CHECKING:
    from rich.console import Console

    from autobackbone.extraction.duplicates import DuplicateGroup


@click.command()
@tables.output
@click.option("--min-similarity", type=float, default=0.98, show_default=True, help="Cosine similarity, at most 1.")
@tables.column
@options.as_json
def duplicates(out: str, min_similarity: float, column: str | None, as_json: bool) -> None:
    """List the near duplicates in a TABLE of features, in groups.

    A group is all images that pairs of this similarity connect.
    """
    table = tables.open_table(out)
    from autobackbone.extraction.duplicates import near_duplicates
    from autobackbone.extraction.recipe import weights_note

    groups = near_duplicates(table, min_similarity, column)
    note = weights_note(table.metadata)
    if as_json:
        rows = [
            {
                "exact": group.is_exact,
                "similarity": round(group.similarity, 6),
                "images": [vars(image) for image in group.images],
            }
            for group in groups
        ]
        tables.print_json(
            {
                "images": len(table),
                "min_similarity": min_similarity,
                "model": table.metadata["config"]["model_name"],
                "weights_loaded": table.metadata["weights"]["loaded"],
                "groups": rows,
            }
        )
        return
    console = new_console()
    for group in groups:
        _print_group(console, group)
    grouped = sum(len(group.images) for group in groups)
    console.print(
        f"{len(table)} images, {grouped} of them in {len(groups)} group{'s' if len(groups) > 1 else ''}"
        if groups
        else f"{len(table)} images, no two have a similarity of {min_similarity} or more"
    )
    tables.print_note(console, note)


def _print_group(console: "Console", group: "DuplicateGroup") -> None:
    from rich.markup import escape

    least = math.floor(group.similarity * 1e4) / 1e4  # rounding must not claim more
    what = "the same file" if group.is_exact else f"similarity {least:.4f} or more"
    console.print(f"{len(group.images)} images, {what}", style="bold", soft_wrap=True)
    copies = Counter(image.content_hash for image in group.images)
    for image in group.images:
        same = "" if group.is_exact or copies[image.content_hash] == 1 else "  (has an exact copy here)"
        console.print(escape(f"  {image.id}{same}"), soft_wrap=True)
    console.print()
