"""Write the performance page of the documentation: the prose of ``page.md``, with the results that are committed.

A line ``<!-- NAME ARGUMENTS -->`` of the prose is replaced by what the function of that name in `PARTS` returns. Plots
are SVG files beside the page. Each holds the digest of the results that it shows, so that a test finds stale ones.

    python benchmarks/page.py
"""

import hashlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import plots
import results
from results import FOLDER, ROOT, Cell, Report, Table, load, shown
from timing import Spread

PROSE = Path(__file__).with_name("page.md")
OUTPUT = ROOT / "docs" / "performance.md"
PLOT_FOLDER = "performance"


class Page:
    """The page, from a folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self) -> str:
        """Return the page as Markdown."""
        return re.sub(r"^<!-- (\w+) ?(.*) -->$", self._part, PROSE.read_text(encoding="utf-8"), flags=re.MULTILINE)

    def write(self, output: Path) -> None:
        """Write the page, and its plots in a folder beside it."""
        folder = output.parent / PLOT_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in plots.PLOTS.items():
            draw(self.report(name), folder / f"{name}.svg", self.digest(name))
        output.write_text(self.text(), encoding="utf-8")

    def report(self, name: str) -> Report:
        """Read the results of ``<subject>.<device>``."""
        return load(self.folder / f"{name}.json")

    def digest(self, name: str) -> str:
        """Return what changes when the results do."""
        return hashlib.sha256((self.folder / f"{name}.json").read_bytes()).hexdigest()

    def _part(self, found: re.Match[str]) -> str:
        return PARTS[found[1]](self, *shlex.split(found[2]))

    def table(self, name: str, title: str) -> str:
        """Return a table."""
        return _untitled(self.report(name).find(title).markdown())

    def pivot(self, name: str, title: str, down: str, across: str, value: str, where: str = "") -> str:
        """Return the medians of one value of a table, by two other columns, for rows such as ``batch=4``."""
        table = self.report(name).find(title)
        key, _, wanted = where.partition("=")
        rows = [row for row in table.rows if not key or str(row[key]) == wanted]
        labels = dict.fromkeys(str(row[across]) for row in rows)
        pivoted = Table(title, {down: ""} | dict.fromkeys(labels, table.columns[value]))
        for member in dict.fromkeys(str(row[down]) for row in rows):
            found = {str(row[across]): median(row[value]) for row in rows if str(row[down]) == member}
            pivoted.rows.append({down: member} | {label: found.get(label) for label in labels})
        return _untitled(pivoted.markdown())

    def notes(self, name: str, title: str, column: str, note: str) -> str:
        """Return what a table notes, as a list: of whom, and for which architectures."""
        groups: dict[tuple[str, str], list[str]] = {}
        for row in self.report(name).find(title).rows:
            if row[note]:
                groups.setdefault((shown(row[column], ""), shown(row[note], "")), []).append(str(row["architecture"]))
        lines = [f"- {label}: {text} ({', '.join(names)})" for (label, text), names in groups.items()]
        return "\n".join(lines) or "None."

    def plot(self, name: str, text: str) -> str:
        """Return a plot."""
        return f"![{text}]({PLOT_FOLDER}/{name}.svg)"

    def environment(self, *names: str) -> str:
        """Return where and when results were measured; all of them are named if they differ."""
        lines: dict[str, list[str]] = {}
        for name in names:
            report = self.report(name)
            smoke = "; a smoke run, whose figures say nothing" if report.quick else ""
            lines.setdefault(f"{results.summary(report.environment)}; {report.date}{smoke}", []).append(report.subject)
        alone = len(lines) == 1
        return "\n".join(f"- {line}" if alone else f"- {', '.join(which)}: {line}" for line, which in lines.items())

    def cuda(self) -> str:
        """Return all tables that were measured on a GPU."""
        reports = [load(path) for path in sorted(self.folder.glob("*.cuda.json"))]
        if not reports:
            return "Nothing is measured on a GPU yet: `nox -s bench -- --device cuda`."
        parts = [self.environment(*(f"{report.subject}.cuda" for report in reports))]
        for report in reports:
            parts.append(f"### {report.subject.capitalize()}, GPU\n\n`{report.command}`")
            for table in report.tables:
                parts += self._by_batch(f"{report.subject}.cuda", table) or [table.markdown()]
        return "\n\n".join(parts)

    def _by_batch(self, name: str, table: Table) -> list[str]:
        """Return how much faster variants are, for each number of images; nothing if that is not what a table holds."""
        if not {"architecture", "variant", "batch", "times faster"} <= table.columns.keys():
            return []
        batches = dict.fromkeys(str(row["batch"]) for row in table.rows if row["batch"] is not None)
        asked = ("architecture", "variant", "times faster")
        titles = {batch: f"**{table.title}, batch of {batch}: times faster**" for batch in batches}
        return [
            f"{title}\n\n{self.pivot(name, table.title, *asked, f'batch={batch}')}" for batch, title in titles.items()
        ]


def median(cell: Cell) -> Cell:
    """Return the median of a spread, and any other cell as it is."""
    return cell.median if isinstance(cell, Spread) else cell


def _untitled(markdown: str) -> str:
    """Leave out the title: the prose has said what follows."""
    return markdown.partition("\n\n")[2]


PARTS: dict[str, Callable[..., str]] = {
    name: getattr(Page, name) for name in ("table", "pivot", "notes", "plot", "environment", "cuda")
}


def main() -> None:
    """Write the page."""
    Page(FOLDER).write(OUTPUT)
    print(OUTPUT)


if __name__ == "__main__":
    main()
