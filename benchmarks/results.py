"""The results of a benchmark: tables that are printed as they come, and kept as JSON, which the documentation shows.

``results/<subject>.<cpu or cuda>.json`` holds the tables of one script on one kind of device, with the machine and the
versions. Scripts write it; `load` reads it, and is the one place that knows what a file must hold.
"""

import argparse
import datetime as dt
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import environment
import torch
from timing import Spread

FORMAT = 1  # raised when the files change in a way that `load` has to know
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
SMOKE = ROOT / "out" / "benchmarks"
DEVICES = ("cpu", "cuda")

Cell = str | int | float | Spread | None


class ResultsError(ValueError):
    """A file of results is missing or damaged."""


@dataclass(frozen=True)
class Table:
    """Rows of cells by column. A column has a format, as of `format`, for its numbers."""

    title: str
    columns: dict[str, str]
    rows: list[dict[str, Cell]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row, and print it."""
        self.rows.append(dict(zip(self.columns, cells, strict=True)))
        print(self.line(self.rows[-1]), flush=True)

    def head(self) -> str:
        """Return the title and the head as Markdown."""
        return f"**{self.title}**\n\n| {' | '.join(self.columns)} |\n|{'---|' * len(self.columns)}"

    def line(self, row: dict[str, Cell]) -> str:
        """Return a row as Markdown."""
        return f"| {' | '.join(shown(row[name], spec) for name, spec in self.columns.items())} |"

    def markdown(self) -> str:
        """Return the table as Markdown."""
        return "\n".join((self.head(), *map(self.line, self.rows)))


def shown(cell: Cell, spec: str) -> str:
    """Return a cell as text: a spread as its median, and its quartiles in brackets."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return " ".join(cell.replace("|", "\\|").split())
    if isinstance(cell, Spread):
        return f"{cell.median:{spec}} ({cell.low:{spec}} to {cell.high:{spec}})"
    return f"{cell:{spec}}"


@dataclass
class Report:
    """What a script found out, with what it depends on."""

    subject: str
    device: str
    quick: bool
    command: str
    environment: dict[str, Any]
    date: str
    seconds: float = 0
    tables: list[Table] = field(default_factory=list)

    def table(self, title: str, columns: dict[str, str]) -> Table:
        """Start a table, and print its head."""
        added = Table(title, columns)
        self.tables.append(added)
        print(f"\n{added.head()}", flush=True)
        return added

    def find(self, title: str) -> Table:
        """Return a table by its title."""
        found = next((table for table in self.tables if table.title == title), None)
        if found is None:
            msg = f"The results of {self.subject!r} on {self.device} have no table {title!r}: measure them again."
            raise ResultsError(msg)
        return found

    def write(self, folder: Path) -> Path:
        """Write the file of this subject and device, all of it or nothing."""
        path = folder / f"{self.subject}.{self.device}.json"
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path


def options(doc: str, *devices: str) -> argparse.ArgumentParser:
    """Return the options that all scripts have; the devices are those that a script measures on, the CPU by default."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--device", choices=devices or DEVICES[:1], default="cpu")
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures say nothing")
    parser.add_argument("--results", type=Path, help="folder for the JSON; by default the committed one, out/ if quick")
    return parser


@contextmanager
def reporting(subject: str, args: argparse.Namespace) -> Iterator[Report]:
    """Yield a report for a script to fill; it is written at the end, unless there is an error."""
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU")
    torch.manual_seed(0)
    facts = environment.describe(args.device)
    changed = [word for word in sys.argv[1:] if str(args.results) not in word and word != "--results"]
    command = " ".join(("python", f"benchmarks/{subject}.py", *changed))
    report = Report(subject, args.device, args.quick, command, facts, f"{dt.datetime.now(dt.UTC):%F}")
    print(f"{subject}, {summary(facts)}", flush=True)
    start = time.perf_counter()
    yield report
    report.seconds = round(time.perf_counter() - start, 1)
    print(f"\n{report.write(args.results or (SMOKE if args.quick else FOLDER))} ({report.seconds:.0f} s)", flush=True)


def summary(facts: dict[str, Any]) -> str:
    """Return the machine and the main versions in one line."""
    machine = f"{facts['cpu']}, {facts['threads']} threads of {facts['cores']} cores"
    flags = [flag for flag in facts["flags"] if flag not in ("avx2", "avx512f")]
    chip = facts.get("gpu") or f"{machine}{', ' * bool(flags)}{', '.join(flags)}"
    versions = [f"{name} {facts['versions'][name]}" for name in ("torch", "timm", "transformers")]
    variables = [f"{name}={value}" for name, value in facts["variables"].items()]
    return "; ".join((chip, ", ".join((*versions, f"Python {facts['python']}")), *variables))


def load(path: Path) -> Report:
    """Read a file of results.

    Raises
    ------
    ResultsError
        If it is missing, is no JSON, or is not what `Report.write` writes.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        subject = path.name.partition(".")[0]
        msg = f"There are no results {str(path)!r}: run `python benchmarks/{subject}.py`."
        raise ResultsError(msg) from err
    except ValueError as err:
        msg = f"{str(path)!r} is no JSON ({err}): measure again."
        raise ResultsError(msg) from err
    try:
        report = _report(data)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        fault = f"it has no {err}" if isinstance(err, KeyError) else str(err)
        msg = f"{str(path)!r} holds no results of format {FORMAT}: {fault}. Measure again."
        raise ResultsError(msg) from err
    if path.name != f"{report.subject}.{report.device}.json":
        msg = f"{str(path)!r} holds the results of {report.subject!r} on {report.device!r}: name it so."
        raise ResultsError(msg)
    return report


def _report(data: Any) -> Report:
    if data["format"] != FORMAT:
        msg = f"its format is {data['format']!r}"
        raise ValueError(msg)
    summary(data["environment"])  # has what is shown of it
    values = {each.name: data[each.name] for each in fields(Report)}
    return Report(**values | {"tables": [_table(**table) for table in data["tables"]]})


def _table(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> Table:
    table = Table(title, columns, [{name: _cell(row[name]) for name in columns} for row in rows])
    if any(row.keys() != columns.keys() for row in rows):
        msg = f"rows of {title!r} have other cells than {', '.join(columns)}"
        raise ValueError(msg)
    table.markdown()  # cells fit the formats of their columns
    return table


def _cell(value: Any) -> Cell:
    if isinstance(value, dict):
        return Spread(**value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    msg = f"{value!r} is no cell of a table"
    raise ValueError(msg)
