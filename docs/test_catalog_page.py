"""The catalog page does in a browser what it says it does, and says of the backbones what the Python API says."""

import csv
import io
import json
import os
import random
import re
import runpy
import shlex
import string
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
from playwright.sync_api import Error, expect

from autobackbone import UnknownBackboneError, describe_backbone, list_backbones
from autobackbone.catalog.describe import summarize
from autobackbone.catalog.figures import DEVICES, shipped
from autobackbone.catalog.query import nearest_names
from autobackbone.catalog.records import COMMERCIAL
from autobackbone.catalog.uses import USES
from autobackbone.cli import app

expect.set_options(timeout=60_000)  # a busy machine takes its time
HERE = Path(__file__).parent / "catalog_page"
BUILD = runpy.run_path(str(HERE / "build.py"))
AXE = runpy.run_path(str(HERE / "axe.py"))
PAGE = 25  # rows of the table
AXES = ("top1", "throughput", "params", "macs", "activations")
BEST_HIGH = ("top1", "throughput")
LISTED = "listed.entries.map((found) => found.name)"
GO = """(query) => {
  history.pushState(null, "", query || location.pathname);
  follow();
  return { names: listed.entries.map((found) => found.name), code: pythonQuery(listed), misread };
}"""
ALL_NAMES = """() => {
  const found = [];
  for (;;) {
    found.push(...[...document.querySelectorAll("#table tbody a")].map((a) => a.textContent));
    const next = document.querySelector("#next");
    if (next.disabled) return found;
    next.click();
  }
}"""
DOTS = """() => {
  renderRest();
  const { left, top } = canvas.getBoundingClientRect();
  return dots.map((dot) => ({ name: dot.found.name, x: left + dot.x, y: top + dot.y }));
}"""
SMALL = """() => [...document.querySelectorAll("a, button, summary, input, select, [role=button]")]
  .filter((found) => found.checkVisibility({ visibilityProperty: true, opacityProperty: false }) && !found.closest("p"))
  .map((found) => [found.outerHTML.slice(0, 120), found.getBoundingClientRect()])
  .filter(([, box]) => box.width < 23.9 || box.height < 23.9)
  .filter(([html]) => !html.includes('class="skip"'))
  .map(([html]) => html)"""
CUT = """(root) => [...document.querySelectorAll(root + " *")]
  .filter((found) => found.checkVisibility() && !found.closest(".unseen, .skip, option, canvas"))
  .map((found) => [found.outerHTML.slice(0, 120), found.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.right > innerWidth + 0.5 || box.left < -0.5))
  .map(([html]) => html)"""


@pytest.fixture(scope="module")
def cards():
    return {name: describe_backbone(name) for name in list_backbones()}


@pytest.fixture(scope="module")
def shown(cards):
    """What the page lists at first: without timm's architectures for tests."""
    return [name for name in cards if not name.startswith("test_")]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "catalog.html"
    BUILD["write_page"](path)
    return path.as_uri()


@pytest.fixture(scope="module")
def firefox(playwright):
    try:
        browser = playwright.firefox.launch()
    except Error as err:
        pytest.skip(f"Firefox: `playwright install firefox` ({str(err).splitlines()[0]})")
    yield browser
    browser.close()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def visits(url):
    """Opens the page in a browser; at the end there have been no errors, and no requests but for the page."""
    contexts, wrong = [], []

    def visit(browser, where="", script=None, **options):
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | options)
        contexts.append(context)
        if browser.browser_type.name == "chromium":
            context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.on("request", lambda request: _is_page(request.url, url) or wrong.append(request.url))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(url + where)
        page.wait_for_selector("[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def _is_page(asked, url):
    return re.split(r"[?#]", asked)[0] == url or asked.startswith("blob:")


@pytest.fixture
def visit(visits, browser):
    return lambda *args, **options: visits(browser, *args, **options)


@pytest.fixture
def visit_chromium(visits, chromium):
    return lambda *args, **options: visits(chromium, *args, **options)


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture
def chromium_page(visit_chromium):
    return visit_chromium()


def searched(card, text):
    names = [name.lower() for name in (card.name, *card.pretrained_tags)]
    return any(all(word in name for word in text.lower().split()) for name in names)


def size(pair):
    return "{} \N{MULTIPLICATION SIGN} {}".format(*pair)


def is_test(name):
    return name.startswith("test_")


def focused(page, selector, key="Tab", most=150):
    """Press Tab until what has the focus is what the selector names."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return page.locator(":focus")
    pytest.fail(f"{key} does not come to {selector}")


def tick(name):
    return lambda page: page.locator("#filters").get_by_label(name, exact=True).check()


def put(label, value):
    return lambda page: page.locator("#filters").get_by_label(label, exact=True).fill(value)


def choose(label, value):
    return lambda page: page.locator("#filters, #chart").get_by_label(label, exact=True).select_option(value)


def figures(name, device="rtx4090"):
    return summarize(name, device)


# Filters, one at a time


FILTERS = {
    "everything": ([], lambda card: True),  # noqa: ARG005
    "stride": ([tick("14")], lambda card: 14 in card.strides),
    "strides": ([tick("4"), tick("32")], lambda card: {4, 32} <= set(card.strides)),
    "least": ([put("Parameters at least, in millions", "300.5")], lambda card: card.params >= 300.5e6),
    "most": ([put("Parameters at most, in millions", "2.5")], lambda card: card.params <= 2.5e6),
    "MACs": ([put("MACs at most, in billions", "0.3")], lambda card: card.macs <= 0.3e9),
    "top-1": ([put("Top-1 at least, in percent", "87.5")], lambda card: (figures(card.name)["top1"] or 0) >= 87.5),
    "images/s": (
        [choose("Images/s measured on", "i9_10940x"), put("Images/s at least", "150")],
        lambda card: (figures(card.name, "i9_10940x")["throughput"] or 0) >= 150,
    ),
    "licenses": (
        [tick("mit (commercial)"), tick("bsd-3-clause (commercial)")],
        lambda card: card.license in ("mit", "bsd-3-clause"),
    ),
    "commercial": ([tick("Commercial use allowed")], lambda card: card.license in COMMERCIAL),
    "task": ([tick("depth")], lambda card: any(use.task == "depth" for use in card.used_by)),
    "methods": (
        [tick("PaDiM"), tick("DETR")],
        lambda card: any(use.method in ("PaDiM", "DETR") for use in card.used_by),
    ),
    "family": ([choose("Family", "convnext")], lambda card: card.family == "convnext"),
    "source": ([choose("Source", "dinov3")], lambda card: card.source == "dinov3"),
    "any size": ([tick("Takes any size")], lambda card: card.any_size),
    "published": ([choose("Published weights", "published")], lambda card: card.pretrained_tags),
    "no weights": ([choose("Published weights", "none")], lambda card: not card.pretrained_tags),
    "together": (
        [
            put("Search names and weights", "vit"),
            tick("16"),
            put("Parameters at most, in millions", "100"),
            tick("Takes any size"),
        ],
        lambda card: searched(card, "vit") and 16 in card.strides and card.params <= 100e6 and card.any_size,
    ),
}


def test_filters(page, cards, shown):
    for case, (steps, passes) in FILTERS.items():
        for step in steps:
            step(page)
        wanted = [name for name in shown if passes(cards[name])]
        assert wanted, case
        expect(page.locator("#count")).to_have_text(f"{len(wanted):,} of {len(shown):,} backbones")
        both = [name for name in wanted if None not in (figures(name)["top1"], figures(name)["throughput"])]
        if case != "images/s":
            assert sorted(dot["name"] for dot in page.evaluate(DOTS)) == sorted(both), case
        assert page.evaluate(ALL_NAMES) == wanted, case
        page.get_by_role("button", name="Reset").click()
        expect(page.locator("#count")).to_have_text(f"{len(shown):,} of {len(shown):,} backbones")
        assert urlsplit(page.url).query == ""


def test_architectures_for_tests_are_hidden(page, cards, shown):
    assert len(shown) < len(cards)
    assert page.evaluate(LISTED) == shown
    page.get_by_label("Show test_*").check()
    assert page.evaluate(ALL_NAMES) == list(cards)


def test_rows_for_all_weights(page):
    choose("Published weights", "each")(page)
    assert page.evaluate(LISTED) == [name for name in list_backbones(pretrained_only=True) if not is_test(name)]


@pytest.mark.parametrize("slider", ["Top-1 at least", "Images/s at least", "Parameters at most", "MACs at most"])
def test_sliders(chromium_page, slider):
    page = chromium_page
    control = page.get_by_label(f"{slider}: slider")
    number = page.get_by_label(re.compile(f"^{slider}(, |$)"))
    before = len(page.evaluate(LISTED))
    control.focus()
    expect(control).to_have_attribute("aria-valuetext", "no bound")
    keys = ("End", "ArrowLeft") if slider.endswith("most") else ("Home", "ArrowRight")
    for key in (keys[0], *5 * [keys[1]]):
        page.keyboard.press(key)
    for _ in range(3):
        page.keyboard.press("PageDown" if slider.endswith("most") else "PageUp")
    assert 0 < len(page.evaluate(LISTED)) < before
    assert float(number.input_value()) > 0
    field = number.get_attribute("name")
    expect(page).to_have_url(re.compile(f"[?]{field}=[0-9.]+$"))
    expect(control).not_to_have_attribute("aria-valuetext", "no bound")
    page.keyboard.press(keys[0])
    assert len(page.evaluate(LISTED)) == before
    assert number.input_value() == ""


def test_every_preset(chromium_page):
    buttons = chromium_page.locator("[data-preset]").all()
    assert len(buttons) == 4
    for button in buttons:
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(chromium_page.locator("[data-preset][aria-pressed=true]")).to_have_count(1)
        found = chromium_page.evaluate(LISTED)
        assert found
        assert run(chromium_page.evaluate("pythonQuery(listed)")) == found


# The page and the Python API give the same answer


def run(code):
    """Run the Python code of a list; return its names."""
    scope = {}
    exec(code, scope)
    return scope["names"]


@pytest.mark.parametrize("device", ["rtx4090", "i9_10940x"])
def test_the_question(page, device):
    for stride in ("4", "8", "16", "32"):
        page.locator("#strides").get_by_label(stride, exact=True).check()
    tick("Takes any size")(page)
    tick("Commercial use allowed")(page)
    page.get_by_label("Images/s measured on").select_option(device)
    page.get_by_label("Images/s at least", exact=True).fill("500")
    page.get_by_role("columnheader", name="Top-1").get_by_role("button").click()
    wanted = list_backbones(
        strides=(4, 8, 16, 32), any_size=True, commercial=True, min_throughput=500, device=device, sort="top1"
    )
    assert page.evaluate(LISTED) == [name for name in wanted if not is_test(name)]
    page.get_by_label("Show test_*").check()
    assert wanted
    assert page.evaluate(ALL_NAMES) == wanted


def drawn_filters(seed):
    """Filters as list_backbones takes them, and the rest that only the page has."""
    draw = random.Random(seed)  # noqa: S311
    licenses = sorted({describe_backbone(name).license for name in ("resnet50", "convnext_tiny", "resnext50_32x4d")})
    uses = sorted({word for use in USES for word in (use.method, use.task)})
    choices = {
        "strides": lambda: tuple(sorted(draw.sample((4, 8, 16, 32), draw.randint(1, 4)))),
        "any_size": lambda: True,
        "commercial": lambda: True,
        "min_top1": lambda: draw.choice((70, 78.5, 82, 86)),
        "min_throughput": lambda: draw.choice((20, 100.5, 1000, 5000)),
        "device": lambda: draw.choice(DEVICES),
        "min_params": lambda: draw.choice((1e6, 5_300_000, 25e6)),
        "max_params": lambda: draw.choice((30e6, 90e6, 310_500_000)),
        "license": lambda: tuple(draw.sample(licenses, draw.randint(1, len(licenses)))),
        "used_by": lambda: tuple(draw.sample(uses, draw.randint(1, 5))),
        "family": lambda: draw.choice(("resnet", "vision_transformer", "convnext", "byobnet")),
        "source": lambda: draw.choice(("timm", "timm", "dinov3")),
        "pretrained_only": lambda: True,
        "sort": lambda: draw.choice((*AXES, "family", "strides", "size", "license", "weights")),
        "reverse": lambda: True,
    }
    keys = draw.sample(sorted(choices), draw.randint(1, 5))
    extra = {"tests": draw.random() < 0.5, "max_macs": draw.choice((None, None, 4_100_000_000))}
    return {key: choices[key]() for key in keys}, extra


def address_of(filters, extra):
    """The part of the address that asks for filters."""
    asked = {key: value for key, value in filters.items() if key != "pretrained_only"} | extra
    if filters.get("pretrained_only"):
        asked["weights"] = "each"
    texts = {}
    for key, value in asked.items():
        if value is True:
            texts[key] = "1"
        elif isinstance(value, tuple):
            texts[key] = ",".join(map(str, value))
        elif value not in (None, False):
            texts[key] = f"{value:.0f}" if value in (filters.get("max_params"), filters.get("min_params")) else value
    return f"?{urlencode(texts, quote_via=quote)}"


def test_generated_filters(page, cards):
    empty = 0
    for seed in range(80):
        filters, extra = drawn_filters(seed)
        found = page.evaluate(GO, address_of(filters, extra))
        assert found["misread"] == [], (filters, extra)
        wanted = [
            name
            for name in list_backbones(**filters)
            if (extra["tests"] or not is_test(name))
            and (extra["max_macs"] is None or cards[name.partition(".")[0]].macs <= extra["max_macs"])
        ]
        assert found["names"] == wanted, (filters, extra)
        assert run(found["code"]) == wanted, found["code"]
        expect(page.locator("#table tbody a")).to_have_text(wanted[:PAGE])
        empty += not wanted
    assert empty < 40


@pytest.mark.parametrize("text", ["resnet50", "vit 16 CLIP", "  a1_in1k 50 ", "dinov3"])
@pytest.mark.parametrize("weights", ["", "each"])
def test_search_in_python(chromium_page, text, weights):
    found = chromium_page.evaluate(GO, f"?search={quote(text)}&weights={weights}")
    assert found["names"]
    assert run(found["code"]) == found["names"]


# Search


def test_search(page, cards, shown):
    field = page.get_by_label("Search names and weights")
    for text in ("resnet50", "vit 16 CLIP", "  a1_in1k 50 ", "dinov3"):
        field.fill("")
        field.press_sequentially(text)
        assert page.evaluate(ALL_NAMES) == [name for name in shown if searched(cards[name], text)], text
        expect(page.locator("#notes")).to_be_empty()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("convnext-tiny", "convnext_tiny"),
        ("vit-b-16", "vit_base_patch16_224"),
        ("ViT-B/16", "vit_base_patch16_224"),
        ("restnet50", "resnet50"),
        ("ResNet-50", "resnet50"),
        ("torchvision/resnet50", "resnet50"),
        ("efficent_net", "efficientnet_b0"),
    ],
)
def test_search_forgives(page, text, meant):
    page.get_by_label("Search names and weights").fill(text)
    expect(page.locator("#table tbody a").first).to_have_text(meant)
    link = page.locator("#notes").get_by_role("link").first
    name = link.inner_text()
    link.click()
    expect(page.get_by_label("Search names and weights")).to_have_value(name)
    expect(page.locator("#table tbody a", has_text=name.partition(".")[0]).first).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Search names and weights")).to_have_value(text)


@pytest.mark.parametrize("weights", ["", "each"])
def test_search_takes_globs(chromium_page, weights):
    globs = (
        "*resnet*",
        "resnet1?d",
        "ConvNeXt_[!t]*",
        "vit*16*224",
        "resnet[5]0",
        "[]x]*",
        "vit_[a-c]*.*",
        "a[*",
        "[z-a]*",
    )
    for glob in globs:
        found = chromium_page.evaluate(GO, f"?tests=1&search={quote(glob)}&weights={weights}")
        assert found["names"] == list_backbones(glob, weights == "each"), glob
        assert run(found["code"]) == found["names"]


@pytest.mark.parametrize("text", ["DINOv3-ViTB16", "facebook/dinov3-vitb16-pretrain-lvd1689m"])
def test_search_knows_the_names_of_dinov3(chromium_page, text):
    chromium_page.get_by_label("Search names and weights").fill(text)
    expect(chromium_page.locator("#table tbody a").first).to_have_text("dinov3_vitb16")


def test_search_for_nothing_known(page):
    page.get_by_label("Search names and weights").fill("no such backbone")
    expect(page.locator("#notes")).to_contain_text("No name has “no such backbone”")
    expect(page.locator("#table")).to_contain_text("No backbone passes these filters.")
    expect(page.locator("#shown")).to_have_text("No rows")
    page.get_by_label("Search names and weights").fill("<img src=x onerror=alert(1)>")
    expect(page.locator("#notes")).to_contain_text("<img src=x")


def misspelled(seed, names):
    """A name with other separators or cases, and letters that are missing, doubled, exchanged or wrong."""
    draw = random.Random(seed)  # noqa: S311
    text = draw.choice(names)
    for _ in range(draw.randint(0, 3)):
        at = draw.randrange(len(text))
        edits = (
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + draw.choice(string.ascii_lowercase + string.digits + "-_. /") + text[at + 1 :],
            text[:at] + text[at : at + 2][::-1] + text[at + 2 :],
            text.replace("_", draw.choice(("-", "", " ", "/"))),
            text.upper(),
            text.replace("patch", "p").replace("base", "b"),
        )
        text = draw.choice(edits) or text
    return text


def resolution(text):
    try:
        return describe_backbone(text).name
    except UnknownBackboneError:
        return None


def test_nearest_names_are_those_of_the_library(chromium_page, cards):
    names = [*cards, *(tag for card in cards.values() for tag in card.pretrained_tags)]
    known = ["regnetx-4.0gf", "RegNetY_800MF", "mobilenetv2_1.4", "vit", "ViT-L/14", "constructor", "50", "", "100"]
    texts = [*known, *(misspelled(seed, names) for seed in range(150))]
    found = chromium_page.evaluate("(texts) => texts.map((text) => nearestNames(text))", texts)
    for text, near in zip(texts, found, strict=True):
        assert near == nearest_names(text), text


def test_spellings_are_those_of_the_library(chromium_page, cards):
    names = [*cards, *(tag for card in cards.values() for tag in card.pretrained_tags)]
    known = ["vit", "EfficientNet", "mobilenet-v3-large", "dla46", "timm/resnet50", "TIMM/resnet50", "constructor"]
    known += ["torchvision/resnet50", "torchvision/vit_tiny_patch16_224", "DINOv3-ViTB16", "resnet50.A1_in1k"]
    draw = random.Random(0)  # noqa: S311
    texts = [*known, *(misspelled(seed, names) for seed in range(200))]
    texts += [draw.choice((name.replace("_", "-"), name.upper(), name.replace("_", ""))) for name in names[::7]]
    texts = [text for text in texts if text.strip()]
    found = chromium_page.evaluate("(texts) => texts.map((text) => resolved(text))", texts)
    wanted = [resolution(text) for text in texts]
    assert sum(name is not None for name in wanted) > 100
    assert dict(zip(texts, found, strict=True)) == dict(zip(texts, wanted, strict=True))


# State in the address


def look(page):
    """What a visitor sees of the state."""
    return page.evaluate(
        """() => (renderRest(), {
      state, names: [...document.querySelectorAll("#table tbody a")].map((a) => a.textContent),
      heads: [...document.querySelectorAll("#table thead th")].map((th) => [th.textContent, th.ariaSort]),
      count: $("count").textContent, chart: $("chart-title").textContent, shown: $("shown").textContent,
      tray: [...document.querySelectorAll("#tray li span")].map((each) => each.textContent),
      fields: [...document.querySelectorAll("#filters [name]")].map((each) => [each.name, each.checked, each.value]),
    })"""
    )


def test_address_holds_the_state(page, visit):
    steps = [
        put("Search names and weights", "vit"),
        tick("16"),
        tick("Commercial use allowed"),
        put("Top-1 at least, in percent", "75.5"),
        choose("Images/s measured on", "rtx5090"),
        put("Images/s at least", "100"),
        put("Parameters at most, in millions", "310.5"),
        put("MACs at most, in billions", "100.1"),
        tick("apache-2.0 (commercial)"),
        choose("Published weights", "each"),
        lambda page: page.get_by_role("columnheader", name="Parameters").get_by_role("button").click(),
        lambda page: page.get_by_role("columnheader", name="Parameters").get_by_role("button").click(),
        lambda page: page.get_by_role("button", name="Next").click(),
        lambda page: page.locator("#table tbody input").nth(1).check(),
        lambda page: page.locator("#table tbody input").nth(3).check(),
        choose("Vertical", "params"),
        choose("Horizontal", "activations"),
        lambda page: page.locator("#columns summary").click(),
        lambda page: page.locator("#columns").get_by_label("Family").check(),
        lambda page: page.locator("#columns").get_by_label("MACs").uncheck(),
    ]
    looks, queries = [look(page)], [""]
    for step in steps:
        step(page)
        if (now := look(page)) != looks[-1]:
            looks.append(now)
            queries.append(f"?{urlsplit(page.url).query}")
    assert len(looks) == len(steps)  # all but that which opens a menu
    assert looks[-1]["names"]
    page.wait_for_function("writeAddress(state) === location.search")
    other = visit(f"?{urlsplit(page.url).query}")
    assert look(other) == looks[-1]
    page.reload()
    page.wait_for_selector("[data-ready]")
    assert look(page) == looks[-1]
    is_at = "(query) => writeAddress(state) === query"
    for before, query in reversed(list(zip(looks[:-1], queries[:-1], strict=True))):
        page.go_back()
        page.wait_for_function(is_at, arg=query)
        assert look(page) == before
    page.go_forward()
    page.wait_for_function(is_at, arg=queries[1])
    assert look(page) == looks[1]


def test_what_is_typed_is_one_step_of_the_history(page):
    field = page.get_by_label("Search names and weights")
    field.press_sequentially("resnet50")
    expect(page).to_have_url(re.compile(r"\?search=resnet50$"))
    tick("Takes any size")(page)
    field.press("End")
    field.press_sequentially("d")
    expect(page).to_have_url(re.compile("search=resnet50d"))
    page.go_back()
    expect(field).to_have_value("resnet50")
    page.go_back()
    expect(page.get_by_label("Takes any size")).not_to_be_checked()
    page.go_back()
    expect(field).to_have_value("")


def test_a_wrong_address_is_said(visit, shown):
    page = visit("?license=none-such&any_size=1&max_params=-3&flavour=2&strides=4,5x")
    notes = page.locator("#notes")
    for wrong in ("license=none-such", "max_params=-3", "flavour=2", "strides=4,5x"):
        expect(notes).to_contain_text(wrong)
    assert "any_size" not in notes.inner_text()
    assert page.evaluate(LISTED) == [name for name in shown if describe_backbone(name).any_size]
    tick("Commercial use allowed")(page)
    expect(notes).to_be_empty()


def test_what_is_asked_for_stays_when_a_card_opens(page):
    page.get_by_label("Search names and weights").fill("resnet50")
    page.locator("#table").get_by_role("link", name="resnet50", exact=True).click()
    expect(page.get_by_role("dialog", name="resnet50")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?search=resnet50#resnet50$"))
    page.keyboard.press("Escape")
    expect(page.get_by_label("Search names and weights")).to_have_value("resnet50")
    expect(page).to_have_url(re.compile(r"\?search=resnet50$"))


# Table


@pytest.mark.parametrize("kind", ["mouse", "keyboard"])
def test_sort(page, cards, shown, kind):
    header = page.get_by_role("columnheader", name="Parameters")
    for direction in ("ascending", "descending"):
        if kind == "mouse":
            header.get_by_role("button").click()
        else:
            header.get_by_role("button").press("Enter")
        expect(header).to_have_attribute("aria-sort", direction)
        expect(header.get_by_role("button")).to_be_focused()
        found = page.evaluate(LISTED)
        assert [cards[name].params for name in found] == sorted(
            (cards[name].params for name in shown), reverse=direction == "descending"
        )
        expect(page.locator("#table tbody a")).to_have_text(found[:PAGE])


def test_table_says_what_the_api_says(visit, cards):
    columns = "top1,throughput,params,macs,activations,strides,size,any_size,license,family,source,weights,used_by"
    page = visit(f"?search=resnet50&columns={columns}")
    card, values = cards["resnet50"], summarize("resnet50")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="resnet50", exact=True))
    number = page.evaluate("(values) => values.map(human)", [card.params, card.macs, card.activations])
    texts = [f"{_percent(values['top1'])} %", _rate(values["throughput"]), *number, " ".join(map(str, card.strides))]
    texts += [size(card.input_size), "yes" if card.any_size else "no", card.license, card.family, card.source]
    texts += [str(len(card.pretrained_tags)), ", ".join(dict.fromkeys(use.method for use in card.used_by))]
    assert row.get_by_role("cell").all_inner_texts() == texts


def test_numbers_are_rounded(chromium_page):
    shown = chromium_page.evaluate("[23508032, 4087136256, 999, 1500, 2.4e12].map(human)")
    assert shown == ["23.5 M", "4.09 G", "999", "1.5 k", "2.4 T"]


def test_columns(page):
    page.locator("#columns summary").click()
    for box in page.locator("#columns input").all():
        box.set_checked(not box.is_checked())
    heads = page.get_by_role("columnheader").all_inner_texts()
    assert {text.split("\n")[0] for text in heads if text} >= {"Family", "Any size", "Used by", "Activations"}
    assert not any("Top-1" in text for text in heads)
    page.keyboard.press("Escape")
    expect(page.locator("#columns")).not_to_have_attribute("open", "")


def test_name_and_heading_stay_in_sight(visit):
    page = visit("?columns=top1,throughput,params,macs,activations,strides,license,family,used_by")
    place = (
        "(selector) => { const { x, y } = document.querySelector(selector).getBoundingClientRect(); return [x, y]; }"
    )
    frame = page.locator("#frame")
    assert frame.evaluate("(frame) => frame.scrollWidth > frame.clientWidth && frame.scrollHeight > frame.clientHeight")
    head, name = (page.evaluate(place, selector) for selector in ("#table thead .params", "#table tbody .name"))
    frame.evaluate("(frame) => frame.scrollTo(80, 300)")
    assert page.evaluate(place, "#table thead .params") == [head[0] - 80, head[1]]
    assert page.evaluate(place, "#table tbody .name") == [name[0], name[1] - 300]


def test_pages(page, shown):
    expect(page.locator("#shown")).to_have_text(f"Rows 1 to {PAGE} of {len(shown):,}")
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#table tbody a")).to_have_text(shown[PAGE : 2 * PAGE])
    page.go_back()
    expect(page.locator("#table tbody a")).to_have_text(shown[:PAGE])


def test_hidden_pages_are_not_asked_for(visit):
    page = visit("?page=999&search=dinov3")
    expect(page.locator("#table tbody a").first).to_be_visible()
    expect(page.get_by_role("button", name="Next")).to_be_disabled()


# Chart


@pytest.mark.parametrize("axes", [("throughput", "top1"), ("params", "macs"), ("activations", "top1")])
def test_chart(page, shown, axes):
    x, y = axes
    page.get_by_label("Horizontal").select_option(x)
    page.get_by_label("Vertical").select_option(y)
    values = {name: summarize(name) for name in shown}
    known = {name: row for name, row in values.items() if None not in (row[x], row[y])}
    dots = page.evaluate(DOTS)
    assert {dot["name"] for dot in dots} == set(known)
    for axis, place, sign in ((x, "x", 1), (y, "y", -1)):  # to the right and up is more
        ordered = [sign * dot[place] for dot in sorted(dots, key=lambda dot: known[dot["name"]][axis])]
        assert ordered == sorted(ordered)
    beats = {name: sum(_is_better(row, other, x, y) for other in known.values()) for name, row in known.items()}
    expect(page.locator("#front a")).to_have_count(sum(not count for count in beats.values()))
    assert set(page.locator("#front a").all_inner_texts()) == {name for name, count in beats.items() if not count}


def _is_better(row, other, x, y):
    """Whether another is at least as good in both, and better in one."""
    pairs = [(other[key] - row[key]) * (1 if key in BEST_HIGH else -1) for key in (x, y)]
    return min(pairs) >= 0 and max(pairs) > 0


def test_chart_and_table_point_at_each_other(visit):
    page = visit("?search=resnet")
    dots = page.evaluate(DOTS)
    alone = (  # the first with nothing else near it
        a for a in dots if sum(abs(a["x"] - b["x"]) < 20 and abs(a["y"] - b["y"]) < 20 for b in dots) == 1
    )
    dot = next(alone)
    page.mouse.move(dot["x"], dot["y"])
    expect(page.locator("#tip b")).to_have_text(dot["name"])
    page.mouse.click(dot["x"], dot["y"])
    expect(page.get_by_role("dialog").get_by_role("heading", name=dot["name"], exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    name = next(name for name in page.locator("#table tbody a").all_inner_texts() if name in {d["name"] for d in dots})
    page.get_by_role("link", name=name, exact=True).first.hover()
    expect(page.locator("#tip b")).to_have_text(name)


# Cards


def test_card(page, cards):
    fixed = next(card.name for card in cards.values() if card.fixed_size and card.license and not is_test(card.name))
    for name in ("resnet50", "vit_base_patch16_224", "dinov3_vitb16", fixed):
        card = cards[name]
        page.get_by_label("Search names and weights").fill(name)
        link = page.locator("#table").get_by_role("link", name=name, exact=True)
        link.click()
        dialog = page.get_by_role("dialog", name=name)
        expect(dialog).to_be_visible()
        expect(page).to_have_url(re.compile(f"#{name}$"))
        facts = dict(zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True))
        assert facts["Parameters"] == f"{card.params:,}"
        assert facts["Family"] == card.family
        assert facts["MACs"].endswith(f" at {size(card.input_size)}")
        assert facts["License"].split()[0] == card.license
        assert ("commercial use" in facts["License"].replace("before commercial use", "")) == (
            card.license in COMMERCIAL
        )
        assert facts["Image sizes"].startswith(f"{size(card.input_size)} only") == card.fixed_size
        assert facts["torch.export"] == ("yes" if card.exportable else "no")
        levels = []
        for row in dialog.get_by_role("table", name="Native levels").locator("tbody tr").all():
            indices, stride, channels = row.locator("th, td").all_inner_texts()
            ends = [int(index) for index in indices.split(" to ")]
            levels += [(i, int(stride), int(channels)) for i in range(ends[0], ends[-1] + 1)]
        assert levels == [(level.index, level.stride, level.channels) for level in card.levels]
        rows = dialog.get_by_role("table", name="Published weights").locator("tbody tr")
        expect(rows).to_have_count(len(card.pretrained_tags))
        for row, tag in zip(rows.all(), map(describe_backbone, card.pretrained_tags), strict=True):
            texts = row.locator("th, td").all_inner_texts()
            assert [texts[0], texts[2]] == [tag.name, size(tag.input_size)]
            assert texts[1].startswith(tag.license or "not stated")
            assert ("gated" in texts[3]) == (tag.ungated is not None)
            hub = row.get_by_role("link", name="on the Hub")
            assert hub.get_attribute("href") == f"https://huggingface.co/{tag.hub_id}"
        accuracy = _cells(dialog, "Accuracy, in percent")
        wanted = [(tag, row) for tag in card.pretrained_tags for row in describe_backbone(tag).accuracy]
        assert accuracy == [[tag, str(row.size), *map(_percent, list(vars(row).values())[1:])] for tag, row in wanted]
        speeds = [[str(row.size), *(_rate(getattr(row, device)) for device in DEVICES)] for row in card.throughput]
        assert _cells(dialog, "Images per second") == speeds
        uses = [(use.method, use.paper) for use in card.used_by]
        links = dialog.locator("ul.links a").all()
        assert [(each.inner_text(), each.get_attribute("href")) for each in links] == uses
        expect(dialog).to_contain_text("classification accuracy of the weights, not detection")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(link).to_be_focused()
        expect(page).not_to_have_url(re.compile("#"))


def _cells(dialog, title):
    table = dialog.get_by_role("table", name=title, exact=True)
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()] if table.count() else []


def _rounded(value, places):
    """Round as JavaScript does: halves up."""
    return Decimal(value).quantize(Decimal(10) ** -places, ROUND_HALF_UP)


def _percent(value):
    return "\N{EN DASH}" if value is None else f"{_rounded(value, 1)}"


def _rate(value):
    return "\N{EN DASH}" if value is None else f"{_rounded(value, 1)}" if value < 10 else f"{_rounded(value, 0):,}"


def test_devices_are_those_of_the_library():
    assert tuple(BUILD["DEVICES"]) == DEVICES


def test_card_without_weights(visit, cards):
    name = next(card.name for card in cards.values() if not card.pretrained_tags)
    page = visit(f"#{name}")
    expect(page.locator("#card-body")).to_contain_text("None.")
    expect(page.locator("#snippet-0")).to_contain_text("pretrained=False")
    expect(page.locator("#snippet-1")).to_contain_text("--random-weights")


def test_card_of_weights(page, cards):
    name = cards["resnet50"].pretrained_tags[1]
    page.evaluate("(name) => (location.hash = name)", name)
    dialog = page.get_by_role("dialog", name=name)
    expect(dialog.locator("#snippet-0")).to_contain_text(f'create_feature_backbone("{name}")')
    expect(dialog.locator("[aria-current]")).to_have_text(name)
    dialog.get_by_role("link", name="resnet50", exact=True).click()
    expect(page.get_by_role("dialog", name="resnet50", exact=True)).to_be_visible()
    page.go_back()
    expect(dialog).to_be_visible()


def test_gated_card(visit, cards):
    card = next(card for card in cards.values() if card.ungated)
    page = visit(f"#{card.name}")
    dialog = page.get_by_role("dialog", name=card.name)
    expect(dialog).to_contain_text("hf auth login")
    dialog.locator(".note").get_by_role("link", name=card.ungated).click()
    expect(page.get_by_role("dialog", name=card.ungated)).to_be_visible()
    expect(page.locator("#card .note")).to_have_count(0)


def test_copied_snippets_run(visit_chromium, cards, capsys):
    page = visit_chromium("?strides=4,16&tests=1#test_resnet")
    snippets = {}
    for title in ("Python", "Command line", "FPN"):
        page.get_by_role("button", name=f"Copy {title}").click()
        expect(page.locator("#card-said")).to_have_text("Copied")
        snippets[title] = page.evaluate("navigator.clipboard.readText()")
        assert snippets[title] == page.get_by_role("region", name=title).inner_text()
    exec(snippets["Python"].replace("out_strides", "pretrained=False, out_strides"), {})
    levels = [level for level in cards["test_resnet"].levels if level.stride in (4, 16)]
    assert capsys.readouterr().out == f"{tuple(level.channels for level in levels)} (4, 16)\n"
    exec(snippets["FPN"].replace("out_strides", "pretrained=False, out_strides"), {})
    assert capsys.readouterr().out == "('p2', 'p4') (4, 16)\n"


def test_every_snippet_is_one_that_works(chromium_page, cards):
    code = chromium_page.evaluate("backbones.map((row) => Object.values(SNIPPETS).map((make) => make(row.name, row)))")
    for (name, card), (python, shell, fpn) in zip(cards.items(), code, strict=True):
        for each in (python, fpn):
            compile(each, name, "exec")
            assert f'create_feature_backbone("{name}"' in each
            assert ("pretrained=False" in each) == (not card.pretrained_tags)
        assert ("only" in python) == card.fixed_size
        assert ("img_size" in python) == (card.fixed_size and card.size_divisor is not None)
        for line in shell.splitlines():
            program, command, *args = shlex.split(line)
            assert program == "autobackbone"
            context = app.commands[command].make_context(command, args)
            assert name in (context.params.get("model"), *context.params.get("names", ()), context.params.get("name"))
            assert context.params.get("random_weights", not card.pretrained_tags) == (not card.pretrained_tags)


def test_snippet_is_selected_where_the_clipboard_is_refused(visit):
    page = visit("#resnet50", script="Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy Python").click()
    expect(page.locator("#card-said")).to_contain_text("Selected")
    assert page.evaluate("getSelection().toString()").strip() == page.locator("#snippet-0").inner_text()


def test_anchor_opens_a_card_and_the_way_back_closes_it(visit):
    page = visit("#resnet50")
    expect(page.get_by_role("dialog", name="resnet50")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page).not_to_have_url(re.compile("#"))
    page.evaluate("location.hash = 'resnet18'")
    expect(page.get_by_role("dialog", name="resnet18")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()


# Side by side, and to take along


def test_compare(page, visit):
    names = ["resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "dinov3_vits16"]
    open_link = page.locator("#open-compare")
    for i, name in enumerate(names):
        page.get_by_label("Search names and weights").fill(name)
        box = page.get_by_label(f"Compare {name}", exact=True)
        box.press("Space")
        expect(box).to_be_checked()
        expect(box).to_be_focused()
        expect(open_link).to_have_text(f"Compare {i + 1}" if i else "Tick one more to compare")
    page.get_by_label("Search names and weights").fill("resnet18")
    expect(page.get_by_label("Compare resnet18", exact=True)).to_be_disabled()
    open_link.click()
    check_comparison(page, names)
    other = visit(f"?{urlsplit(page.url).query}#compare")
    check_comparison(other, names)
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Remove resnet50").click()
    expect(open_link).to_have_text("Compare 3")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#tray")).to_be_hidden()


def check_comparison(page, names):
    table = page.get_by_role("dialog", name="Side by side").get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_text(names)
    values = [summarize(name) for name in names]
    titles = {"params": "Parameters", "macs": "MACs", "activations": "Activations", "top1": "Top-1"}
    for key, title in {**titles, "throughput": "Images/s on"}.items():
        row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name=title))
        known = [each[key] for each in values if each[key] is not None]
        best = (max if key in BEST_HIGH else min)(known)
        marked = ["best" in text for text in row.locator("td").all_text_contents()]
        assert marked == [each[key] == best for each in values], key
    expect(page.get_by_role("dialog", name="Side by side")).to_contain_text("not detection")


def saved(page, button):
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    page.keyboard.press("Escape")
    return Path(download.value.path()).read_bytes().decode()


def test_export(visit):
    page = visit("?search=resnet&weights=each&device=i9_10940x&sort=top1&commercial=1")
    names = page.evaluate(LISTED)
    assert len(names) > 50  # more than a page of the table
    values = [summarize(name, "i9_10940x") for name in names]
    found = json.loads(saved(page, "JSON"))
    assert found["backbones"] == values
    assert found["figures"].items() >= {**shipped().source, "device": "i9_10940x"}.items()
    rows = list(csv.DictReader(io.StringIO(saved(page, "CSV"))))
    assert [row["name"] for row in rows] == names
    for row, value in zip(rows, values, strict=True):
        assert row["device"] == "i9_10940x"
        assert shipped().source["url"] in row["figures_from"]
        assert row["strides"] == " ".join(map(str, value["strides"]))
        for key in ("top1", "throughput", "params", "macs", "activations"):
            assert float(row[key] or "nan") == pytest.approx(value[key] or float("nan"), nan_ok=True)
        assert row["license"] == (value["license"] or "")


def test_export_shows_its_python_code(chromium_page):
    tick("Takes any size")(chromium_page)
    chromium_page.locator("#export summary").click()
    chromium_page.locator("#export").get_by_role("button", name="Copy").click()
    expect(chromium_page.locator("#said")).to_have_text("Copied")
    code = chromium_page.evaluate("navigator.clipboard.readText()")
    assert run(code) == chromium_page.evaluate(LISTED)


# Where the figures are from


def test_attribution(page):
    source = shipped().source
    note = page.locator("#figures-note")
    expect(note).to_be_visible()
    for text in (
        source["title"],
        source["date"],
        source["license"],
        "classification accuracy of the weights, not detec",
    ):
        expect(note).to_contain_text(text)
    expect(note.get_by_role("link")).to_have_attribute("href", source["url"])


# Keyboard, screen reader, color, and small screens


def test_keyboard_alone(page):
    focused(page, "#search")
    page.keyboard.type("resnet50")
    link = focused(page, "#table tbody a")
    name = link.inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=name, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name=name, exact=True).first).to_be_focused()
    focused(page, "#table thead [data-sort=params]", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Parameters")).to_have_attribute("aria-sort", "ascending")
    focused(page, "[data-tick]")
    page.keyboard.press("Space")
    focused(page, "#table tbody tr:nth-child(2) [data-tick]")
    page.keyboard.press("Space")
    focused(page, "#open-compare", most=300)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Side by side")).to_be_visible()


def test_theme(visit):
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = visit(color_scheme=scheme)
        colors = "[getComputedStyle(document.body).backgroundColor, colors.any, colors.ink]"
        before = page.evaluate(colors)
        page.emulate_media(color_scheme=other)
        page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=other)
        after = page.evaluate(colors)
        assert all(a != b for a, b in zip(before, after, strict=True))
        page.get_by_role("button", name="Dark theme").click()
        assert page.evaluate(colors) == before
        page.reload()
        page.wait_for_selector("[data-ready]")
        assert page.evaluate(colors) == before  # a choice is kept


def gated():
    return next(name for name in list_backbones(source="dinov3") if describe_backbone(name).ungated)


FOUR = "resnet50,convnext_tiny,swin_tiny_patch4_window7_224,vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"
STATES = {
    "start": "",
    "filters": "?strides=4,8&any_size=1&commercial=1&min_top1=80&license=mit,apache-2.0&sort=top1",
    "did you mean": "?search=restnet50",
    "nothing": "?search=no+such+backbone",
    "wrong address": "?license=none-such",
    "all columns": "?columns=top1,throughput,params,macs,activations,strides,size,any_size,license,family,used_by",
    "ticked": f"?select={FOUR}",
    "card": "#resnet50",
    "card of weights": "#vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "gated card": "#GATED",
    "compare": f"?select={FOUR}#compare",
    "menu of columns": "columns",
    "menu of exports": "export",
}


def open_state(page, url, where):
    page.goto("about:blank")
    menu = where if where in ("columns", "export") else None
    page.goto(url + ("" if menu else where.replace("GATED", gated())))
    page.wait_for_selector("[data-ready]")
    if menu:
        page.locator(f"#{menu} summary").click()
    if not page.locator("#more").evaluate("(more) => more.open"):
        page.evaluate("() => (document.querySelector('#more').open = true)")
    if "#" in where:
        expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit_chromium, url, scheme, width):
    page = visit_chromium(color_scheme=scheme, viewport={"width": width, "height": 900})
    for state, where in STATES.items():
        open_state(page, url, where)
        page.evaluate(AXE["script"]())
        assert AXE["violations"](page) == [], state
        assert page.evaluate(SMALL) == [], state


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1280, 1440])
def test_nothing_is_cut_off(visit, url, width):
    page = visit(viewport={"width": width, "height": 844})
    for state, where in STATES.items():
        open_state(page, url, where)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
        if state == "all columns" and width > 640:
            continue  # more columns than there is room for scroll sideways below the name
        assert page.evaluate("$('frame').scrollWidth <= $('frame').clientWidth"), state
        root = "dialog[open]" if "#" in where else "body"
        assert page.evaluate(CUT, root) == [], state
        if root != "body":
            assert page.evaluate(
                "(root) => { const { scrollWidth, clientWidth } = document.querySelector(root);"
                " return scrollWidth <= clientWidth; }",
                root,
            ), state


@pytest.mark.parametrize("width", [390, 768, 1024])
def test_the_table_comes_before_the_chart(visit, width):
    page = visit(viewport={"width": width, "height": 844})
    table, chart = (page.locator(each).bounding_box() for each in ("#table", "#scatter"))
    assert table["y"] + 50 < chart["y"]


def test_phone(visit, cards):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Takes any size").check()
    page.get_by_label("Sort by").select_option("params")
    page.get_by_label("Reverse").check()
    found = page.locator("#table tbody a").all_inner_texts()
    assert found == list_backbones(any_size=True, sort="params", reverse=True)[: len(found)]
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=found[0], exact=True))
    assert row.get_by_role("cell").count() == 6  # a row is still one for a screen reader
    page.locator("#table tbody a").first.tap()
    expect(page.get_by_role("dialog", name=cards[found[0]].name)).to_be_visible()


# The file


def test_size(url):
    assert Path(url.removeprefix("file://")).stat().st_size < 2_000_000


def test_first_render_draws_one_page_of_rows(visit, cards):
    page = visit()
    assert 0 < page.locator("tbody tr").count() < len(cards) / 10


def test_same_page_each_time(url, tmp_path):
    BUILD["write_page"](tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == Path(url.removeprefix("file://")).read_bytes()


def test_npm_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(AXE["AxeError"], match=r"npm.*install Node\.js"):
        AXE["script"](tmp_path)
