"""Measure how fast the catalog page is in Chromium, the processor slowed down four times.

    python docs/catalog_page/measure.py catalog.html

Prints when the first rows are on the screen, and how long filters take until the next frame is.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FIRST_ROWS = """() => {
  const observer = new MutationObserver(() => {
    if (!document.querySelector("#table tbody a")) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => (window.firstRows = performance.now())));
  });
  observer.observe(document, { childList: true, subtree: true });
}"""
STEP = """(step) => {
  const field = document.querySelector(step.field);
  const start = performance.now();
  if (step.text === undefined) {
    field.click();
  } else {
    field.value = step.text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  return new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))));
}"""
STEPS = {
    "search for resnet": {"field": "input[type=search]", "text": "resnet"},
    "search for restnet50": {"field": "input[type=search]", "text": "restnet50"},
    "no search": {"field": "input[type=search]", "text": ""},
    "stride 16": {"field": "#strides input[value='16']"},
    "not stride 16": {"field": "#strides input[value='16']"},
    "any size": {"field": "#filters input[name^=any]"},
    "not any size": {"field": "#filters input[name^=any]"},
}


def main() -> None:
    """Measure a page that was built before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--slower", type=float, default=4, help="how many times slower the processor is")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        times: dict[str, list[float]] = {}
        for _ in range(options.repeats):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": options.slower})
            _measure(page, options.page.resolve().as_uri(), times)
            page.close()
        browser.close()
    print(f"{options.page.stat().st_size / 1e6:.2f} MB; {options.slower:g} times slower; milliseconds, least to most")  # noqa: T201
    for name, values in times.items():
        print(f"{name:22}{statistics.median(values):8.0f}  ({min(values):.0f} to {max(values):.0f})")  # noqa: T201


def _measure(page: Page, url: str, times: dict[str, list[float]]) -> None:
    page.add_init_script(f"({FIRST_ROWS})()")
    page.goto(url)
    page.wait_for_function("window.firstRows")
    times.setdefault("first rows", []).append(page.evaluate("window.firstRows"))
    page.wait_for_load_state("networkidle")
    for name, step in STEPS.items():
        times.setdefault(name, []).append(page.evaluate(STEP, step))


if __name__ == "__main__":
    main()
