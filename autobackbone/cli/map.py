"""The command ``map``."""

from pathlib import Path

import click

from autobackbone.cli import options, tables
from autobackbone.cli.options import new_console


@click.command("map")
@tables.output
@click.option(
    "--to", "-o", "page", type=click.Path(path_type=Path), default="map.html", show_default=True, help="The page."
)
@click.option("--method", default="pca", show_default=True, help="pca, or umap, which needs umap-learn.")
@tables.column
@click.option(
    "--thumbnails", type=click.IntRange(min=0), default=4000, show_default=True, help="Maximum number of thumbnails."
)
@click.option(
    "--max-images", type=click.IntRange(min=1), default=50_000, show_default=True, help="Of more images, every n-th."
)
@options.as_json
def map_command(
    out: str, page: Path, method: str, column: str | None, thumbnails: int, max_images: int, as_json: bool
) -> None:
    """Write a page that shows the images in a TABLE of features as a map: alike ones are near each other."""
    table = tables.open_table(out)
    from autobackbone.extraction.map_page import write_map
    from autobackbone.extraction.recipe import weights_note

    report = write_map(table, page, column=column, method=method, thumbnails=thumbnails, most=max_images)
    if as_json:
        tables.print_json(
            {
                "file": str(page),
                "images": report.images,
                "thumbnails": report.thumbnails,
                "bytes": page.stat().st_size,
                "model": table.metadata["config"]["model_name"],
                "weights_loaded": table.metadata["weights"]["loaded"],
            }
        )
        return
    console = new_console()
    sampled = f" of {len(table)}" if report.images < len(table) else ""
    console.print(f"{report.images}{sampled} images, {report.thumbnails} with a thumbnail", soft_wrap=True)
    tables.print_note(console, weights_note(table.metadata))
    print(page)  # noqa: T201
