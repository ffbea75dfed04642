"""The commands ``catalog build`` and ``catalog figures``."""

import sys
from pathlib import Path

import click

from autobackbone.errors import ConfigError


@click.command()
@click.option("--fresh", is_flag=True, help="Measure everything again.")
@click.option("--path", type=click.Path(path_type=Path), help="File to write; by default one in the user's cache.")
def build(fresh: bool, path: Path | None) -> None:
    """Measure every backbone of the installed timm on the meta device, on every core."""
    from rich.console import Console
    from rich.progress import Progress

    from autobackbone.catalog import survey

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task("measuring")

    def show(done: int, total: int, name: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, description=f"{name:50.50}")

    try:
        written = survey.build(path, fresh=fresh, progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    print(written)  # noqa: T201


@click.command()
@click.argument("checkout", type=click.Path(path_type=Path))
@click.option("--path", type=click.Path(path_type=Path), help="File to write; by default that of the package.")
def figures(checkout: Path, path: Path | None) -> None:
    """Take published accuracy and throughput from CHECKOUT, a git checkout of huggingface/pytorch-image-models."""
    from autobackbone.catalog.figures import FILE, write
    from autobackbone.catalog.timm_results import read_results
    from autobackbone.sources.installed import full_catalog

    found = read_results(checkout)
    path = path or FILE
    if not path.parent.is_dir():
        msg = f"There is no folder {str(path.parent)!r} to write the figures to; make it first, or name another."
        raise ConfigError(msg)
    write(path, found)
    catalog = full_catalog()
    strange = sorted({*found.accuracy} - {*catalog.published} | {*found.throughput} - {*catalog.records})
    if strange:
        note = f"{len(strange)} names are not in the catalog of timm {catalog.timm}, such as {strange[0]!r}."
        print(f"autobackbone: {note}", file=sys.stderr)  # noqa: T201
    print(path)  # noqa: T201
