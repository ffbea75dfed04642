"""What the documentation shows runs: the Python blocks of a page, in order, in one namespace."""

import pytest
import torch
from outputs import DOCS, FOLDER, blocks, run_page

PAGES = {"README": DOCS.parent / "README.md"} | {
    path.relative_to(DOCS).with_suffix("").as_posix(): path
    for path in sorted([*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")])
}
torch.set_num_threads(1)  # threads that wait for a core that another process has cost more than they save


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated:FutureWarning",  # Lightning's own, of torch
    "ignore:The '.*' does not have many workers",  # Lightning's advice, on machines with more cores
)
@pytest.mark.parametrize("name", PAGES)
def test_snippets(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(DOCS / "guides")  # for the data and the drawing that the guides share
    run_page(PAGES[name], DOCS / FOLDER / name)


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("guides/")])
def test_code_fits_its_column(name):
    text = PAGES[name].read_text(encoding="utf-8")
    assert not [line for block in blocks(text) for line in block.code.splitlines() if len(line) > 88]
