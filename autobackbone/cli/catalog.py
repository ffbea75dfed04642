"""The command ``catalog build``."""

from pathlib import Path

import click


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
