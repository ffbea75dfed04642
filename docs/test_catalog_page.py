"""The catalog page does in a browser what it says it does, and says of the backbones what the Python API says."""

import os
import re
import runpy
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright
from sphinx.errors import ExtensionError

from autobackbone import describe_backbone, list_backbones

expect.set_options(timeout=60_000)  # a busy machine takes its time
HERE = Path(__file__).parent / "catalog_page"
BUILD = runpy.run_path(str(HERE / "build.py"))
ARGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ALL_NAMES = """() => {
  const found = [];
  for (;;) {
    found.push(...[...document.querySelectorAll("#table tbody a")].map((a) => a.textContent));
    const next = document.querySelector(".dt-paging-button.next");
    if (next.classList.contains("disabled")) return found;
    next.click();
  }
}"""
DOTS = """() => {
  const scatter = Chart.getChart("scatter");
  const { left, top } = scatter.canvas.getBoundingClientRect();
  return scatter.data.datasets.flatMap(({ data }, i) => data.map(({ row }, j) => {
    const { x, y } = scatter.getDatasetMeta(i).data[j].getProps(["x", "y"]);
    return { name: row.name, x: left + x, y: top + y, inside: scatter.isPointInArea({ x, y }) };
  }));
}"""


@pytest.fixture(scope="module")
def cards():
    return {name: describe_backbone(name) for name in list_backbones()}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "catalog.html"
    BUILD["write_page"](path)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)  # without one: Playwright's own
    quiet = ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*ARGS.split(), *quiet])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end there have been no errors, and no requests but for the page."""
    contexts, wrong = [], []

    def visit(fragment="", script=None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.on("request", lambda request: request.url.partition("#")[0] == url or wrong.append(request.url))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(url + fragment)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(visit):
    return visit(viewport={"width": 1400, "height": 1000})


def searched(card, text):
    names = [name.lower() for name in (card.name, *card.pretrained_tags)]
    return any(all(word in name for word in text.lower().split()) for name in names)


def size(card):
    return "{} \N{MULTIPLICATION SIGN} {}".format(*card.input_size)


def focused(page, selector):
    """Press Tab until what has the focus is what the selector names."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return page.locator(":focus")
    pytest.fail(f"Tab does not come to {selector}")


def test_search(page, cards):
    field = page.get_by_label("Search names and weights")
    for text in ("resnet50", "vit 16 CLIP", "  a1_in1k 50 ", "dinov3", "no such backbone"):
        field.fill("")
        field.press_sequentially(text)
        assert page.evaluate(ALL_NAMES) == [name for name, card in cards.items() if searched(card, text)], text


def tick(name):
    return lambda page: page.get_by_label(name, exact=True).check()


def put(label, value):
    return lambda page: page.get_by_label(label, exact=True).fill(value)


def choose(label, value):
    return lambda page: page.get_by_label(label, exact=True).select_option(value)


FILTERS = {
    "everything": ([], lambda card: True),  # noqa: ARG005
    "stride": ([tick("14")], lambda card: 14 in card.strides),
    "strides": ([tick("4"), tick("32")], lambda card: {4, 32} <= set(card.strides)),
    "least": ([put("At least", "300.5")], lambda card: card.params >= 300.5e6),
    "most": ([put("At most", "2.5")], lambda card: card.params <= 2.5e6),
    "between": ([put("At least", "20"), put("At most", "30")], lambda card: 20e6 <= card.params <= 30e6),
    "license": ([choose("License of the default weights", "mit")], lambda card: card.license == "mit"),
    "no weights": (
        [choose("License of the default weights", "no weights")],
        lambda card: not card.pretrained_tags,
    ),
    "family": ([choose("Family", "convnext")], lambda card: card.family == "convnext"),
    "source": ([choose("Source", "dinov3")], lambda card: card.source == "dinov3"),
    "any size": ([tick("Takes any size")], lambda card: card.any_size),
    "published": ([tick("Has published weights")], lambda card: card.pretrained_tags),
    "together": (
        [put("Search names and weights", "vit"), tick("16"), put("At most", "100"), tick("Takes any size")],
        lambda card: searched(card, "vit") and 16 in card.strides and card.params <= 100e6 and card.any_size,
    ),
}


def test_filters(page, cards):
    for case, (steps, passes) in FILTERS.items():
        for step in steps:
            step(page)
        wanted = [name for name, card in cards.items() if passes(card)]
        assert wanted, case
        expect(page.locator("#count")).to_have_text(f"{len(wanted)} of {len(cards)} backbones")
        assert sorted(dot["name"] for dot in page.evaluate(DOTS) if dot["inside"]) == sorted(wanted), case
        assert page.evaluate(ALL_NAMES) == wanted, case
        page.get_by_role("button", name="Reset").click()
        expect(page.locator("#count")).to_have_text(f"{len(cards)} of {len(cards)} backbones")


@pytest.mark.parametrize("kind", ["mouse", "keyboard"])
def test_sort(page, cards, kind):
    header = page.get_by_role("columnheader", name="Parameters")
    page.get_by_label("Rows per page").select_option("100")
    for direction in ("ascending", "descending"):
        if kind == "mouse":
            header.click()
        else:
            header.get_by_role("button").press("Enter")
        expect(header).to_have_attribute("aria-sort", direction)
        params = [cards[name].params for name in page.evaluate(ALL_NAMES)]
        assert params == sorted((card.params for card in cards.values()), reverse=direction == "descending")


def test_table_says_what_the_api_says(page, cards):
    card = cards["resnet50"]
    page.get_by_label("Search names and weights").fill("resnet50")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="resnet50", exact=True))
    texts = [card.family, f"{card.params / 1e6:.1f} M", f"{card.macs / 1e9:.2f} G", " ".join(map(str, card.strides))]
    texts += [size(card), "yes" if card.any_size else "no", card.license, str(len(card.pretrained_tags))]
    assert row.get_by_role("cell").all_inner_texts() == texts


def test_page_length(page):
    for length in ("50", "100", "25"):
        page.get_by_label("Rows per page").select_option(length)
        expect(page.locator("#table tbody tr")).to_have_count(int(length))


def test_scatter(page):
    page.get_by_label("Search names and weights").fill("resnet")
    dots = page.evaluate(DOTS)
    alone = (  # the first with nothing else near it
        a for a in dots if sum(abs(a["x"] - b["x"]) < 20 and abs(a["y"] - b["y"]) < 20 for b in dots) == 1
    )
    dot = next(alone)
    page.mouse.move(dot["x"], dot["y"])
    page.wait_for_function("(name) => Chart.getChart('scatter').tooltip.title?.[0] === name", arg=dot["name"])
    page.mouse.click(dot["x"], dot["y"])
    expect(page.get_by_role("dialog").get_by_role("heading", name=dot["name"], exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#table tbody a").nth(1).hover()
    name = page.locator("#table tbody a").nth(1).inner_text()
    assert page.evaluate("Chart.getChart('scatter').tooltip.title") == [name]


def test_card(page, cards):
    fixed = next(card.name for card in cards.values() if card.fixed_size and card.license)
    for name in ("resnet50", "vit_base_patch16_224", "dinov3_vitb16", fixed):
        card = cards[name]
        page.get_by_label("Search names and weights").fill(name)
        link = page.get_by_role("link", name=name, exact=True)
        link.click()
        dialog = page.get_by_role("dialog", name=name)
        expect(dialog).to_be_visible()
        expect(page).to_have_url(re.compile(f"#{name}$"))
        facts = dict(zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True))
        assert facts["Parameters"] == f"{card.params:,}"
        assert facts["Family"] == card.family
        assert facts["MACs"].endswith(f" at {size(card)}")
        assert facts["License"] == card.license
        assert facts["Image sizes"].startswith(f"{size(card)} only") == card.fixed_size
        assert facts["torch.export"] == ("yes" if card.exportable else "no")
        levels = []
        for row in dialog.get_by_role("table", name="Native levels").locator("tbody tr").all():
            indices, stride, channels = row.locator("td").all_inner_texts()
            ends = [int(index) for index in indices.split(" to ")]
            levels += [(i, int(stride), int(channels)) for i in range(ends[0], ends[-1] + 1)]
        assert levels == [(level.index, level.stride, level.channels) for level in card.levels]
        weights = dialog.get_by_role("table", name="Published weights").locator("tbody tr")
        expect(weights).to_have_count(len(card.pretrained_tags))
        for row, tag in zip(weights.all(), map(describe_backbone, card.pretrained_tags), strict=True):
            assert row.locator("td").all_inner_texts() == [tag.name, tag.license or "not stated", size(tag), "Hub"]
            assert row.get_by_role("link").get_attribute("href") == f"https://huggingface.co/{tag.hub_id}"
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(link).to_be_focused()
        expect(page).not_to_have_url(re.compile("#"))


def test_card_without_weights(visit, cards):
    name = next(card.name for card in cards.values() if not card.pretrained_tags)
    page = visit(f"#{name}")
    expect(page.locator("#weights")).to_have_text("none")
    expect(page.locator("#snippet")).to_contain_text("pretrained=False")


def test_copied_snippet_runs(visit, cards, capsys):
    page = visit()
    for stride in ("4", "16"):
        page.get_by_label(stride, exact=True).check()
    page.evaluate("location.hash = 'test_resnet'")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()
    code = page.evaluate("navigator.clipboard.readText()")
    assert code == page.locator("#snippet").inner_text()
    assert 'create_feature_backbone("test_resnet", out_strides=(4, 16))' in code
    exec(code.replace("out_strides", "pretrained=False, out_strides"), {})
    levels = [level for level in cards["test_resnet"].levels if level.stride in (4, 16)]
    assert capsys.readouterr().out == f"{tuple(level.channels for level in levels)} (4, 16)\n"


def test_every_snippet_compiles(page, cards):
    for (name, card), code in zip(cards.items(), page.evaluate("backbones.map(snippet)"), strict=True):
        compile(code, name, "exec")
        assert f'create_feature_backbone("{name}"' in code
        assert ("pretrained=False" in code) == (not card.pretrained_tags)
        assert ("only" in code) == card.fixed_size
        assert ("img_size" in code) == (card.fixed_size and card.size_divisor is not None)


def test_snippet_is_selected_where_the_clipboard_is_refused(visit):
    page = visit("#resnet50", script="Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status").filter(has_text="Selected")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == page.locator("#snippet").inner_text()


def test_hash_opens_a_card_and_the_way_back_closes_it(visit):
    page = visit("#resnet50")
    expect(page.get_by_role("dialog", name="resnet50")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page).not_to_have_url(re.compile("#"))
    page.evaluate("location.hash = 'resnet18'")
    expect(page.get_by_role("dialog", name="resnet18")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_keyboard_alone(page):
    focused(page, "#query")
    page.keyboard.type("resnet50")
    link = focused(page, "#table tbody a")
    name = link.inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=name, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name=name, exact=True)).to_be_focused()


def test_theme(visit):
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = visit(color_scheme=scheme)
        look = (
            "[getComputedStyle(document.body).backgroundColor, Chart.getChart('scatter').data.datasets[0].borderColor]"
        )
        before = page.evaluate(look)
        page.emulate_media(color_scheme=other)
        page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=other)
        after = page.evaluate(look)
        assert all(a != b for a, b in zip(before, after, strict=True))
        page.get_by_role("button", name="Dark theme").click()
        assert page.evaluate(look) == before
        page.reload()
        assert page.evaluate(look) == before  # a choice is kept


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", ["", "#vit_base_patch16_224"])
def test_accessibility(visit, scheme, fragment):
    page = visit(fragment, color_scheme=scheme, viewport={"width": 1400, "height": 1000})
    page.evaluate((BUILD["libraries"]() / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_narrow(visit):
    page = visit(viewport={"width": 400, "height": 800})
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Takes any size").check()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#table tbody a").first.click()
    assert page.evaluate("document.querySelector('#card').scrollWidth <= innerWidth")


def test_first_render_draws_one_page_of_rows(visit, cards):
    page = visit(script="addEventListener('load', () => (window.rows = document.querySelectorAll('tbody tr').length))")
    assert 0 < page.evaluate("window.rows") < len(cards) / 10


def test_same_page_each_time(url, tmp_path):
    BUILD["write_page"](tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == Path(url.removeprefix("file://")).read_bytes()


def test_npm_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(ExtensionError, match=r"npm.*install Node\.js"):
        BUILD["libraries"](tmp_path)
