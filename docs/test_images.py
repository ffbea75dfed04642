"""The pictures of the front page show what is so: whose weights the maps are of, and the counts that were measured."""

import re
import runpy
from dataclasses import replace

import pytest
from outputs import DOCS
from PIL import Image
from results import load

PATH = DOCS / "images" / "make.py"


@pytest.fixture(scope="module")
def make():
    return runpy.run_path(str(PATH))


def test_features_can_be_drawn_again(make, tmp_path):
    sizes = []
    for models in (("test_resnet",), ("test_resnet", "test_vit")):
        make["draw_features"](tmp_path / "features.png", models)
        with Image.open(tmp_path / "features.png") as image:
            assert make["WEIGHTS"] in image.info["Description"]
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1]


def test_committed_features_say_that_they_are_untrained(make):
    with Image.open(PATH.with_name("features.png")) as image:
        assert image.info["Description"] == make["WEIGHTS"]
    pages = [page for page in DOCS.rglob("*.md") if "images/features.png" in page.read_text(encoding="utf-8")]
    assert DOCS / "index.md" in pages
    for page in pages:
        (caption,) = re.findall(r"!\[([^\]]*)\]\([^)]*images/features\.png\)", page.read_text(encoding="utf-8"))
        assert "untrained weights" in " ".join(caption.split())


def test_committed_counts_are_those_that_were_measured(make):
    assert make["digest"]() in PATH.with_name("contract.svg").read_text(encoding="utf-8"), f"run `python {PATH}`"


def test_counts_are_drawn(make, tmp_path, monkeypatch):
    report = load(make["COUNTS"])
    table = report.find(make["raw_timm"].TITLE)
    for i, row in enumerate(table.rows):
        row |= {"raw timm": 101 + i, "autobackbone": 201 + i}
    changed = replace(report, tables=[table]).write(tmp_path)
    monkeypatch.setitem(make["draw_counts"].__globals__, "COUNTS", changed)
    make["draw_counts"](tmp_path / "counts.svg")
    drawn = set(re.findall(r">\s*(\d+)<", (tmp_path / "counts.svg").read_text(encoding="utf-8")))
    assert {"101", "102", "103", "201", "202", "203"} <= drawn
