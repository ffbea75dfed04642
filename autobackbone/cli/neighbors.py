"""The command ``neighbors``."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from autobackbone.cli import options, tables
from autobackbone.cli.options import new_console, print_fitted
from autobackbone.errors import InputError, OutputError
from autobackbone.values import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from autobackbone.extraction.table import FeatureTable


class _Query(NamedTuple):
    """What is searched for: an image in the table, or one that is not."""

    id: str | None
    path: str
    content: bytes = b""


@click.command()
@click.argument("query")
@tables.output
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many neighbors.")
@tables.column
@click.option("--weights", help="The weights file that the table was made with, if it has to be named.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value="neighbors.png",
    help="Draw the neighbors; by default in neighbors.png.",
)
@options.as_json
def neighbors(
    query: str, out: str, k: int, column: str | None, weights: str | None, sheet: Path | None, as_json: bool
) -> None:
    """Find the images in a TABLE of features that are most like an image.

    QUERY is the id of an image in the table, or an image file. For a file that is not in the table, the backbone of the
    table is created again.
    """
    table = tables.open_table(out)
    from autobackbone.extraction.recipe import weights_note

    asked = _resolve(query, table)
    feature: Any = asked.id
    if asked.id is None:
        feature = _features(table, asked, column, weights)
    nearest = table.nearest(feature, k, column)
    paths = table.arrow(["path"]).column(0)
    rows = [
        {"rank": rank, "similarity": round(similarity, 6), "id": key, "path": paths[table.position(key)].as_py()}
        for rank, (key, similarity) in enumerate(nearest, 1)
    ]
    note = weights_note(table.metadata)
    if sheet is not None:
        title = f"{Path(query).name}, neighbors among {len(table)} images by {table.metadata['config']['model_name']}"
        _write_sheet(sheet, title, asked.path, rows, note)
    if as_json:
        tables.print_json(
            {
                "query": query,
                "query_id": asked.id,
                "model": table.metadata["config"]["model_name"],
                "weights_loaded": table.metadata["weights"]["loaded"],
                "sheet": None if sheet is None else str(sheet),
                "neighbors": rows,
            }
        )
        return
    console = new_console()
    _print(console, rows)
    tables.print_note(console, note)
    if sheet is not None:
        print(sheet)  # noqa: T201


def _resolve(query: str, table: "FeatureTable") -> _Query:
    """Return which image is meant.

    Raises
    ------
    InputError
        If it is neither in the table nor a file.
    """
    if query in table.ids:
        path = table.arrow(["path"]).column(0)[table.position(query)].as_py()
        return _Query(query, path)
    try:
        content = Path(query).read_bytes()
    except (OSError, ValueError) as err:
        if isinstance(err, FileNotFoundError | ValueError):
            reason = next((failure.reason for failure in table.errors if failure.id == query), None)
            remedy = did_you_mean(query, table.ids, "check the path, or give the id of an image in the table.")
            msg = (
                f"There is neither a file nor an image of the table with the name {query!r}; {remedy}"
                if reason is None
                else f"{query!r} has no features in the table: {reason}."
            )
        else:
            msg = f"{query!r} cannot be read ({getattr(err, 'strerror', None) or err}); name an image file."
        raise InputError(msg) from err
    digest = sha256(content).hexdigest()
    hashes = table.arrow(["content_hash"]).column(0).to_pylist()
    return _Query(table.ids[hashes.index(digest)] if digest in hashes else None, query, content)


def _features(table: "FeatureTable", asked: _Query, column: str | None, weights: str | None) -> Any:
    """Return the features of an image that is not in the table."""
    table.shape(column)  # raises an error if there is no such column, before the backbone is made
    from autobackbone.extraction.decoding import UnreadableError, open_image
    from autobackbone.extraction.remake import remake

    try:
        open_image(asked.content)  # before weights are loaded
    except UnreadableError as err:
        msg = f"{asked.path!r} cannot be searched for: {err}."
        raise InputError(msg) from err
    features = remake(table.metadata, weights=weights)(asked.content)
    return features[column or table.columns[0]]


def _print(console: "Console", rows: Sequence[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    shows_paths = any(row["path"] not in ("", row["id"]) for row in rows)
    columns = ["id", "similarity", *(["path"] if shows_paths else [])]

    def build(shown: Sequence[str], *, framed: bool) -> Table:  # noqa: ARG001 - a list has no frame
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in shown:
            table.add_column(column, justify="right" if column == "similarity" else "left", overflow="fold")
        for row in rows:
            texts = {"id": escape(row["id"]), "similarity": f"{row['similarity']:.4f}", "path": escape(row["path"])}
            table.add_row(*(texts[column] for column in shown))
        return table

    print_fitted(console, build, columns, lesser=("path",))


def _write_sheet(sheet: Path, title: str, query: str, rows: Sequence[dict[str, Any]], note: str) -> None:
    from autobackbone.cli.sheet import draw_sheet

    picture = draw_sheet(title, query, [(row["similarity"], row["id"], row["path"]) for row in rows], note)
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture.save(sheet)
    except (OSError, ValueError) as err:
        msg = f"--sheet {str(sheet)!r} cannot be written ({err}); name a file such as neighbors.png."
        raise OutputError(msg) from err
