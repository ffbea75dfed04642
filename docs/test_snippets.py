"""What the documentation shows runs: the Python blocks of a page, in order, in one namespace."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_snippets(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if block.type == "fence" and block.info.strip() == "python":
            code = "\n" * (block.map[0] + 1) + block.content  # so that a traceback shows the line of the page
            exec(compile(code, str(page), "exec"), namespace)
