"""What the pages say of commands, errors, licenses and versions is so."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

import autobackbone
from autobackbone import describe_backbone, list_backbones
from autobackbone.cli import app

DOCS = Path(__file__).parent
ROOT = DOCS.parent
README = ROOT / "README.md"
PAGES = [README, *sorted([*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")])]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
READ_ONLY = ("list", "info", "compare")


def shown(page, start):
    """The commands on a page that begin with some words, as lists of words."""
    for block in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if block.type == "fence" and block.info.strip() == "console":
            text = re.sub(r"\$\([^)]*\)(?:'\))?", "FOLDER", block.content.replace("\\\n", " "))
            for line in text.splitlines():
                for part in line.removeprefix("$ ").split("&&"):
                    words = shlex.split(part, comments=True)
                    if line.startswith("$ ") and words[: len(start)] == start:
                        yield words[len(start) :]


COMMANDS = [(page, words) for page in PAGES for words in shown(page, ["autobackbone"])]


def test_commands_are_found():
    assert {page.name for page, _ in COMMANDS} >= {"README.md", "discovery.md", "installation.md", "deployment.md"}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda x: x.stem if isinstance(x, Path) else " ".join(x))
def test_commands_have_the_options_that_are_shown(page, words):
    command, rest = app, list(words)
    while isinstance(command, click.Group):
        assert rest[0] in command.commands, f"{page.name}: {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    rest = rest[: rest.index("|")] if "|" in rest else rest
    command.make_parser(click.Context(command)).parse_args(rest)
    if words[0] in READ_ONLY and not any("NAME" in word for word in words):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert result.output


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_extras_that_are_shown_exist(page):
    text = page.read_text(encoding="utf-8")
    for found in re.findall(r"(?:autobackbone|src|\.)\[([\w,]+)\][\"'`]", text):
        assert set(found.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_every_error_is_in_troubleshooting(soup):
    rows = [row.get_text() for row in soup("troubleshooting").select("table:first-of-type tbody tr td:first-child")]
    for name in autobackbone.__all__:
        thing = getattr(autobackbone, name)
        if isinstance(thing, type) and issubclass(thing, BaseException):
            assert sum(bool(re.match(rf"{name}\b", row)) for row in rows) == 1, name


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"])
def test_variables_move_the_caches(variable, tmp_path):
    if variable == "XDG_CACHE_HOME" and sys.platform != "linux":
        pytest.skip("of Linux")
    code = """
import torch
from huggingface_hub import constants
from autobackbone.catalog.store import cache_path
print(constants.HF_HUB_CACHE, torch.hub.get_dir(), cache_path("1.0"), sep="\\n")
"""
    asked = {"HF_HOME": [0], "HF_HUB_CACHE": [0], "TORCH_HOME": [1], "XDG_CACHE_HOME": [0, 1, 2]}[variable]
    environment = {"PATH": "", "HOME": str(tmp_path / "home"), variable: str(tmp_path / "caches")}
    environment["PYTHONPATH"] = str(Path(autobackbone.__file__).parents[1])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603 - as above
    moved = [Path(line).is_relative_to(tmp_path / "caches") for line in done.stdout.splitlines()]
    assert moved == [i in asked for i in range(3)]


def test_licenses_are_those_of_the_catalog(soup):
    heading = soup("discovery").select_one("section#licenses")
    cells = [[cell.get_text() for cell in row.select("td")] for row in heading.select("table tbody tr")]
    weights = {tag for name in list_backbones() for tag in describe_backbone(name).pretrained_tags}
    cards = [describe_backbone(tag) for tag in weights]
    assert {(name, int(count)) for name, count, *_ in cells} == {
        *Counter(card.license or "none stated" for card in cards).items()
    }
    for name, _, listed, _ in cells:
        if name != "none stated":
            found = list_backbones(pretrained_only=True, license=name, commercial=True)
            assert bool(found) is (listed == "listed")


def test_versions_are_those_of_the_project(soup):
    page = soup("compatibility")
    rows = {tuple(cell.get_text() for cell in row.select("td")) for row in page.select("table tbody tr")}
    assert {tuple(each.split(">=")) for each in PROJECT["dependencies"]} <= rows
    assert {f"autobackbone[{extra}]" for extra in PROJECT["optional-dependencies"]} <= {row[0] for row in rows}
    for each in PROJECT["classifiers"]:
        if found := re.fullmatch(r".* :: (3\.\d+)", each):
            assert found[1] in page.get_text()


def test_every_benchmark_is_on_its_page(soup):
    text = soup("benchmarks").get_text()
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert scripts
    assert [path.name for path in scripts if path.name not in text] == []


def links(text):
    tokens = MarkdownIt().parse(text)
    inline = [child for token in tokens for child in token.children or () if child.type in ("link_open", "image")]
    return [child.attrGet("href") or child.attrGet("src") for child in inline]


def test_the_readme_works_where_it_is_shown_alone():
    found = links(README.read_text(encoding="utf-8"))
    assert len(found) > 10
    for link in found:
        assert link.startswith("https://"), link
        path = re.fullmatch(r"https://github\.com/autobackbone/autobackbone/blob/main/(.+)", link)
        assert path is None or (ROOT / path[1]).is_file(), link
    assert list(shown(README, ["pip", "install", "."])) == [[], ["--group", "dev"]]
    assert list(shown(README, ["nox"])) == [[]]
