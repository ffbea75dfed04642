"""What the documentation shows runs: the Python blocks of a page, in order, in one namespace."""

from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", *sorted([*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")])]
torch.set_num_threads(1)  # threads that wait for a core that another process has cost more than they save


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated:FutureWarning",  # Lightning's own, of torch
    "ignore:The '.*' does not have many workers",  # Lightning's advice, on machines with more cores
)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(DOCS.parent).as_posix())
def test_snippets(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(DOCS / "guides")  # for the data that the guides share
    namespace = {"__name__": "__main__"}
    for block in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if block.type == "fence" and block.info.strip() == "python":
            code = "\n" * (block.map[0] + 1) + block.content  # so that a traceback shows the line of the page
            exec(compile(code, str(page), "exec"), namespace)
