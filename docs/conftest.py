"""What the tests of the built pages share: the site as a server gives it, and a browser."""

import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

import autobackbone

DOCS = Path(__file__).parent
HTML = DOCS / "_build" / "html"
ARGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def html():
    """The folder of the built pages, which are not older than what they are built from."""
    command = "sphinx-build -W --keep-going -b html docs docs/_build/html"
    index = HTML / "searchindex.js"  # written last
    sources = [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("*.py"), *DOCS.glob("_static/*")]
    sources = [path for path in sources if not path.name.startswith(("test_", "conftest"))]
    sources += Path(autobackbone.__file__).parent.rglob("*.py")
    if not index.is_file() or index.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        pytest.fail(f"docs/_build/html is not built, or older than docs/: run `{command}`")
    return HTML


@pytest.fixture(scope="session")
def soup(html):
    """Reads a built page by its path without the ending."""
    return functools.cache(lambda page: BeautifulSoup((html / f"{page}.html").read_bytes(), "html.parser"))


@pytest.fixture(scope="session")
def site(html, tmp_path_factory):
    """The address of the site, below the path that it has on its server."""
    root = tmp_path_factory.mktemp("server")
    (root / "autobackbone").symlink_to(html, target_is_directory=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/autobackbone/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")  # while it runs, nothing else can run asyncio's loop
def playwright():
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def chromium(playwright):
    found = next(filter(None, map(shutil.which, BROWSERS)), None)  # without one: Playwright's own
    quiet = ["--disable-component-update", "--disable-sync"]
    browser = playwright.chromium.launch(executable_path=found, args=[*ARGS.split(), *quiet])
    yield browser
    browser.close()
