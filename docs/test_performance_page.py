"""The performance page shows the results that it is given, and the committed page those that are committed."""

import random
import re
import shlex
from dataclasses import replace

import page
import plots
import pytest
import results
from results import FOLDER, ResultsError, load
from timing import Spread

PROSE = page.PROSE.read_text(encoding="utf-8")
NAMES = sorted({path.stem for path in FOLDER.glob("*.cpu.json")} - {"raw_timm.cpu"})  # that one is on the front page


@pytest.fixture
def folder(tmp_path):
    """The committed results, with other figures and other architectures."""
    number = random.Random(0)  # noqa: S311
    copy = tmp_path / "results"
    for name in NAMES:
        report = load(FOLDER / f"{name}.json")
        for table in report.tables:
            for row in table.rows:
                for column, cell in row.items():
                    if isinstance(cell, Spread):
                        low, median, high = sorted(number.uniform(1, 9) for _ in range(3))
                        row[column] = Spread(median, low, high, 3)
                    elif column == "architecture":
                        row[column] = f"made_up_{cell}"
        replace(report, date="2001-02-03").write(copy)
    return copy


def placed(kind):
    """What the prose has of a kind, as arguments."""
    return [shlex.split(found) for found in re.findall(rf"^<!-- {kind} (.+) -->$", PROSE, re.MULTILINE)]


def grid(markdown):
    """The cells of a table: its head, and its rows."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines())
    return head, rows


@pytest.mark.parametrize(("name", "title"), placed("table"))
def test_tables(folder, name, title):
    table = load(folder / f"{name}.json").find(title)
    assert table.rows
    assert "\n".join(map(table.line, table.rows)) in page.Page(folder).text()


@pytest.mark.parametrize(("name", "title", "down", "across", "value", "where"), [[*a, ""][:6] for a in placed("pivot")])
def test_pivots(folder, name, title, down, across, value, where):
    markdown = page.Page(folder).pivot(name, title, down, across, value, where)
    assert markdown in page.Page(folder).text()
    (_, *labels), rows = grid(markdown)
    shown = {(member, label): cell for member, *cells in rows for label, cell in zip(labels, cells, strict=True)}
    table = load(folder / f"{name}.json").find(title)
    key, _, wanted = where.partition("=")
    chosen = [row for row in table.rows if not key or str(row[key]) == wanted]
    assert {place for place, cell in shown.items() if cell} == {
        (row[down], row[across]) for row in chosen if row[value] is not None
    }
    for row in chosen:
        assert shown[row[down], row[across]] == results.shown(page.median(row[value]), table.columns[value])


@pytest.mark.parametrize(("name", "title", "column", "note"), placed("notes"))
def test_notes(folder, name, title, column, note):
    markdown = page.Page(folder).notes(name, title, column, note)
    assert markdown in page.Page(folder).text()
    for row in load(folder / f"{name}.json").find(title).rows:
        if row[note]:
            line = next(line for line in markdown.splitlines() if line.startswith(f"- {row[column]}: {row[note]}"))
            assert row["architecture"] in line


def test_date_and_machine(folder):
    text = page.Page(folder).text()
    for name in NAMES:
        assert f"{results.summary(load(folder / f'{name}.json').environment)}; 2001-02-03" in text


def test_plots_show_the_architectures(folder, tmp_path):
    page.Page(folder).write(tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    for name in plots.PLOTS:
        svg = (tmp_path / page.PLOT_FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        assert f"({page.PLOT_FOLDER}/{name}.svg)" in text
        assert page.Page(folder).digest(name) in svg
        report = load(folder / f"{name}.json")
        drawn = {row["architecture"] for table in report.tables for row in table.rows if "architecture" in row}
        assert drawn
        assert all(f">{architecture}<" in svg for architecture in drawn)


def test_plots_are_the_same_each_time(folder, tmp_path):
    for output in (tmp_path / "a" / "page.md", tmp_path / "b" / "page.md"):
        page.Page(folder).write(output)
    for name in plots.PLOTS:
        first, second = (tmp_path / side / page.PLOT_FOLDER / f"{name}.svg" for side in "ab")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_damaged_results_are_named(folder, name):
    path = folder / f"{name}.json"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(ResultsError, match=re.escape(path.name)):
        page.Page(folder).text()
    path.unlink()
    with pytest.raises(ResultsError, match=re.escape(path.name)):
        page.Page(folder).text()


@pytest.mark.parametrize("name", NAMES)
def test_missing_table_is_named(folder, name):
    report = load(folder / f"{name}.json")
    replace(report, tables=[]).write(folder)
    with pytest.raises(ResultsError, match=f"'{report.subject}' on cpu have no table"):
        page.Page(folder).text()


def test_figures_of_a_gpu(folder):
    assert "Nothing is measured on a GPU yet" in page.Page(folder).text()
    report = load(folder / "overhead.cpu.json")
    gpu = {"gpu": "Made-up 100"}
    replace(report, device="cuda", environment=report.environment | gpu).write(folder)
    text = page.Page(folder).text()
    assert "Nothing is measured on a GPU yet" not in text
    assert "Made-up 100" in text
    assert all(table.markdown() in text for table in report.tables)


def test_smoke_runs_are_called_so(folder):
    report = load(folder / "dinov3.cpu.json")
    replace(report, quick=True).write(folder)
    assert "a smoke run" in page.Page(folder).text()


def test_committed_page_is_current():
    assert page.OUTPUT.read_text(encoding="utf-8") == page.Page(FOLDER).text(), "run `python benchmarks/page.py`"
    for name in plots.PLOTS:
        svg = (page.OUTPUT.parent / page.PLOT_FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        assert page.Page(FOLDER).digest(name) in svg, "run `python benchmarks/page.py`"
