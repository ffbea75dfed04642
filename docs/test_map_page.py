"""The map of a data set does in a browser what it says it does, whatever images are called."""

import base64
import io
import re
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from autobackbone import create_backbone, extract_features, open_features
from autobackbone.extraction.map_page import write_map

expect.set_options(timeout=60_000)  # a busy machine takes its time
AXE = runpy.run_path(str(Path(__file__).parent / "catalog_page" / "axe.py"))
HOSTILE = "<script>alert(1)<img src=x onerror=alert(2)> \"q\" 'q' & é日本\u2028.png"
POINTS = """() => {
  const { left, top } = canvas.getBoundingClientRect();
  return data.ids.map((id, i) => ({ id, x: left + place(i)[0], y: top + place(i)[1], shown: isShown(i) }));
}"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = torch.Generator().manual_seed(0)
    for i in range(70):  # more than are shown as thumbnails by default
        name = HOSTILE if i == 0 else f"{i:02}.png"
        path = folder / ("a", "b", "<b>c<b>", "")[i % 4] / name
        path.parent.mkdir(exist_ok=True)
        pixels = torch.randint(0, 256, (3, 4, 3), generator=random, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).resize((160, 120)).save(path)
    output = tmp_path_factory.mktemp("tables") / "out"
    torch.manual_seed(0)
    extract_features(create_backbone("test_resnet", pretrained=False), folder, output)
    (folder / "b" / "01.png").unlink()
    return open_features(output)


@pytest.fixture(scope="module")
def url(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "map.html"
    write_map(table, path)
    return path.as_uri()


@pytest.fixture
def visit(chromium, url):
    """Opens the page; at the end there have been no errors, and no requests but for the page and opened images."""
    contexts, wrong = [], []

    def visit(**options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: request.url == url or wrong.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(url)
        page.wait_for_function("() => canvas.width > 1 && view.scale > 1")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(visit):
    return visit()


def point(page, key):
    return next(each for each in page.evaluate(POINTS) if each["id"] == key)


def alone(page):
    """Return points with nothing else near them."""
    points = page.evaluate(POINTS)
    return [a for a in points if sum(abs(a["x"] - b["x"]) < 30 and abs(a["y"] - b["y"]) < 30 for b in points) == 1]


def hover(page, key):
    """Zoom in on a point until nothing else is near, and put the pointer on it."""
    for _ in range(12):
        at = point(page, key)
        page.mouse.move(at["x"], at["y"])
        if any(each["id"] == key for each in alone(page)):
            break
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(50)
    at = point(page, key)
    page.mouse.move(at["x"] + 1, at["y"] + 1)


def thumbnail(path):
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((88, 88))
        return small


def test_says_what_it_shows(page, table):
    expect(page).to_have_title(f"Map of {len(table)} images by test_resnet")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Map of {len(table)} images")
    expect(page.locator("#facts")).to_contain_text("test_resnet \N{MIDDLE DOT} pooled")
    expect(page.locator("#facts")).to_contain_text(f"{len(table) - 1} with a thumbnail")
    expect(page.get_by_text(re.compile("^RANDOM WEIGHTS"))).to_be_visible()


def test_hover_shows_the_image(page, table):
    for name in (HOSTILE, "02.png", "03.png", "04.png"):
        key = next(each for each in table.ids if each.endswith(name))
        hover(page, key)
        card = page.locator("#card")
        expect(card.locator("b")).to_have_text(re.sub(r"\s+", " ", name))
        shown = base64.b64decode(card.locator("img").get_attribute("src").partition("base64,")[2])
        expected = thumbnail(table.row(key)["path"])
        with Image.open(io.BytesIO(shown)) as picture:
            assert picture.size == expected.size
            difference = torch.tensor(list(picture.tobytes())).float() - torch.tensor(list(expected.tobytes())).float()
        assert difference.abs().mean() < 12  # of 255: JPEG
        page.get_by_role("button", name="Show all").click()


def test_missing_image(page):
    hover(page, "b/01.png")
    expect(page.locator("#card")).to_contain_text("cannot be opened from here")
    expect(page.locator("#card img")).to_be_hidden()


def test_legend_filters(page, table):
    names = {"a", "b", "<b>c<b>", ""}
    folders = [key.rpartition("/")[0] for key in table.ids]
    assert set(folders) == names
    for name in names:
        entry = page.locator("#legend").get_by_text(name or "(top folder)", exact=True)
        entry.click()
        hidden = {each["id"] for each in page.evaluate(POINTS) if not each["shown"]}
        assert hidden == {key for key, folder in zip(table.ids, folders, strict=True) if folder == name}
        expect(page.locator("#found")).to_have_text(f"{len(table) - len(hidden)} of {len(table)} images shown")
        entry.click()
    page.get_by_role("button", name="None").click()
    before = page.screenshot()
    assert not any(each["shown"] for each in page.evaluate(POINTS))
    page.get_by_role("button", name="All", exact=True).click()
    assert all(each["shown"] for each in page.evaluate(POINTS))
    expect(page.locator("#found")).to_have_text("")
    page.wait_for_timeout(100)
    assert page.screenshot() != before


def test_hidden_images_are_not_there(page):
    key = next(each["id"] for each in alone(page))
    folder = key.rpartition("/")[0]
    page.locator("#legend").get_by_text(folder or "(top folder)", exact=True).click()
    at = point(page, key)
    page.mouse.move(at["x"], at["y"])
    expect(page.locator("#card")).to_be_hidden()


def test_find(page, table):
    page.get_by_label("Find in names").fill("1")
    expected = [key for key in table.ids if "1" in key]
    expect(page.locator("#found")).to_have_text(f"{len(expected)} of {len(table)} images")


def test_zoom_and_pan(page):
    before = page.evaluate("({ ...view })")
    page.get_by_role("button", name="Zoom in").click()
    assert page.evaluate("view.scale") == pytest.approx(1.5 * before["scale"])
    page.get_by_role("button", name="Show all").click()
    assert page.evaluate("({ ...view })") == before
    page.mouse.move(300, 500)
    page.mouse.down()
    page.mouse.move(340, 520, steps=4)
    page.mouse.up()
    after = page.evaluate("({ ...view })")
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (40, 20)
    assert len(page.context.pages) == 1  # a drag is no click


def test_click_opens_the_image(page, table):
    key = next(each for each in table.ids if each.endswith("03.png"))
    hover(page, key)
    at = point(page, key)
    with page.context.expect_page() as opened:
        page.mouse.click(at["x"] + 1, at["y"] + 1)
    assert opened.value.url == Path(table.row(key)["path"]).as_uri()


def test_keyboard_alone(page, table):
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === canvas"):
            break
    visited = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        expect(page.locator("#card")).to_be_visible()
        visited.add(page.locator("#said").inner_text())
    assert len(visited) > 2
    assert visited <= {re.sub(r"\s+", " ", each) for each in table.ids}
    page.keyboard.press("+")
    current = page.evaluate("data.ids[current]")
    if page.evaluate("Boolean(data.links[current])"):
        with page.context.expect_page() as opened:
            page.keyboard.press("Enter")
        assert opened.value.url == Path(table.row(current)["path"]).as_uri()
        page.bring_to_front()
    page.keyboard.press("Escape")
    expect(page.locator("#card")).to_be_hidden()


def test_thumbnails_on_the_map(page):
    page.wait_for_timeout(200)
    before = page.screenshot()
    page.get_by_label("Thumbnails on the map").check()
    page.wait_for_function("() => images.size > 60 && [...images.values()].every((image) => image.complete)")
    page.wait_for_timeout(200)
    assert page.screenshot() != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit, scheme):
    page = visit(color_scheme=scheme)
    try:
        page.evaluate(AXE["script"]())
    except AXE["AxeError"] as err:
        pytest.skip(str(err))
    found = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_theme(page):
    page.emulate_media(color_scheme="light")
    light = page.evaluate("[getComputedStyle(document.body).backgroundColor, ...colors]")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("(old) => colors[0] !== old", arg=light[1])
    dark = page.evaluate("[getComputedStyle(document.body).backgroundColor, ...colors]")
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_narrow(visit):
    page = visit(viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.get_by_role("button", name="Zoom in")).to_be_visible()
