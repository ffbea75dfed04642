"""The built pages in a browser: they fit their columns, can be read by all, and are found by the search."""

import json
import runpy
from pathlib import Path

import pytest
from playwright.sync_api import expect

DOCS = Path(__file__).parent
AXE = runpy.run_path(str(DOCS / "catalog_page" / "axe.py"))
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
KINDS = (  # one page of each kind
    "404",
    "changelog",
    "cli",
    "discovery",
    "glossary",
    "heads",
    "index",
    "performance",
    "quickstart",
    "reference",
    "reference/autobackbone.FeatureBackbone",
    "search",
)
STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
CLIPPED_CODE = """() => [...document.querySelectorAll("pre")]
  .filter((pre) => pre.scrollWidth > pre.clientWidth)
  .map((pre) => pre.textContent.split("\\n").reduce((a, b) => (b.length > a.length ? b : a)))"""
SCROLLS = """() => [...document.querySelectorAll("html, body, body *")]
  .filter((e) => !e.closest("pre") && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
  .filter((e) => e === document.documentElement || ["auto", "scroll"].includes(getComputedStyle(e).overflowX))
  .map((e) => `${e.tagName}.${e.className}: ${e.scrollWidth} > ${e.clientWidth}`)"""


@pytest.fixture(scope="module")
def visit(chromium, site):
    """Opens a page, which asks nothing of any other machine."""
    contexts = {}

    def visit(path, viewport=DESKTOP, scheme="light"):
        key = (viewport["width"], scheme)
        if key not in contexts:
            context = chromium.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
            context.set_default_timeout(60_000)  # a busy machine takes its time
            context.route(lambda url: not url.startswith(site), lambda route: route.abort())
            contexts[key] = context.new_page()
        contexts[key].goto(site + path)
        return contexts[key]

    yield visit
    for page in contexts.values():
        page.context.close()


def test_code_fits_its_column_on_a_desktop(html, visit):
    pages = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html") if path.name != "catalog.html")
    assert len(pages) > len(KINDS)
    clipped = {page: lines for page in pages if (lines := visit(page).evaluate(CLIPPED_CODE))}
    assert clipped == {}


def test_code_that_does_not_fit_is_seen(visit):
    page = visit("quickstart.html")
    page.evaluate("document.querySelector('pre').textContent = 'x'.repeat(200)")
    assert page.evaluate(CLIPPED_CODE) == ["x" * 200]


@pytest.mark.parametrize("name", KINDS)
def test_nothing_but_code_scrolls_sideways_on_a_phone(visit, name):
    assert visit(f"{name}.html", PHONE).evaluate(SCROLLS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", KINDS)
def test_pages_are_accessible(visit, name, viewport, scheme):
    page = visit(f"{name}.html", viewport, scheme)
    page.add_script_tag(content=AXE["script"]())
    options = {"runOnly": {"type": "tag", "values": STANDARD}}
    result = page.evaluate(f"axe.run({json.dumps(options)})")
    assert result["passes"]
    found = [(each["id"], [node["html"] for node in each["nodes"]]) for each in result["violations"]]
    assert found == []


def test_the_catalog_page_is_one_click_away_and_found_by_the_search(visit):
    page = visit("quickstart.html")
    page.locator(".sidebar-tree").get_by_role("link", name="The catalog").click()
    expect(page.locator("#table tbody")).to_be_visible(timeout=60_000)
    for query in ("catalog", "convnext"):
        page = visit(f"search.html?q={query}")
        expect(page.locator("#search-results a[href^='catalog.html']").first).to_be_visible(timeout=60_000)


def test_code_can_be_copied_without_its_prompts(visit):
    page = visit("discovery.html")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    block = page.locator(".highlight-console").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('autobackbone')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert [line.split()[0] for line in copied.splitlines()] == ["autobackbone"] * len(copied.splitlines())
    assert len(copied.splitlines()) > 1
