"""The reference has all that is public, and shows nothing private."""

import importlib
import re
from pathlib import Path

import click
import pytest
from api_pages import INTEGRATIONS, public_names

import autobackbone
from autobackbone.cli import app

ROOT = Path(autobackbone.__file__).parents[1]
NAMES = list(public_names())


def signatures(soup, name):
    return [found.get_text() for found in soup(f"reference/{name}").select("dt.sig")]


def test_everything_public_has_a_page_and_nothing_else_has(html):
    stub = (Path(autobackbone.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    exported = {f"autobackbone.{name}" for name in re.findall(r"(\w+) as \1\b", stub)}
    integrations = {f"{module}.{name}" for module, names in INTEGRATIONS.items() for name in names}
    assert {path.stem for path in (html / "reference").glob("*.html")} == exported | integrations


def test_integrations_are_those_of_their_modules():
    for module, names in INTEGRATIONS.items():
        loaded = importlib.import_module(module)
        here = [name for name, thing in vars(loaded).items() if getattr(thing, "__module__", None) == module]
        public = getattr(loaded, "__all__", [name for name in here if not name.startswith("_")])
        assert sorted(names) == sorted(public)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_public(soup, name):
    found = signatures(soup, name)
    assert name.rpartition(".")[2] in found[0]
    for text in found:
        assert not re.findall(r"(?<![\w.])_[a-z]\w*", text, re.IGNORECASE)
        modules = re.findall(r"\bautobackbone(?:\.\w+)+", text)
        assert all(
            f"{module}.".startswith(tuple(f"{public}." for public in NAMES))
            or module in NAMES
            or any(public.startswith(f"{module}.") for public in NAMES)
            for module in modules
        ), modules


def test_types_and_names_in_docstrings_are_links(soup):
    page = soup("reference/autobackbone.create_feature_backbone")
    links = {link["href"] for link in page.select("dt.sig a.reference.internal")}
    assert "autobackbone.FeatureBackboneConfig.html#autobackbone.FeatureBackboneConfig" in links
    assert "autobackbone.FeatureBackbone.html#autobackbone.FeatureBackbone" in links
    text = soup("reference/autobackbone.FeatureBackbone").select_one("dd")
    assert text.select_one("a[href*='create_feature_backbone']")


@pytest.mark.parametrize("name", NAMES)
def test_source_links_lead_to_the_lines(soup, name):
    links = soup(f"reference/{name}").select("dt.sig a.reference.external:has(.viewcode-link)")
    assert links
    short = name.rpartition(".")[2]
    path, first, last = re.fullmatch(r".+/blob/[\w.-]+/(autobackbone/\S+\.py)#L(\d+)-L(\d+)", links[0]["href"]).groups()
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(first) - 1 : int(last)]
    assert any(re.match(rf"(class|def) {short}\b", line) for line in lines)


def commands(command, path):
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{path} {name}")


def test_the_command_line_has_every_command_and_option(soup):
    text = soup("cli").select_one("[role=main]").get_text()
    found = dict(commands(app, "autobackbone"))
    assert len(found) > 10
    for path, command in found.items():
        assert path.rpartition(" ")[2] in text
        for each in command.params:
            if isinstance(each, click.Option) and not each.hidden:
                for option in (*each.opts, *each.secondary_opts):
                    assert option in text, f"{path} {option}"
