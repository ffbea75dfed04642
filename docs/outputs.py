"""What the snippets of a page print and draw: kept when they run, and shown below them in the built pages.

`run_page` runs the Python blocks of a page in order, in one namespace, as a reader would. What a block prints, and the
pictures that it shows with ``plt.show()`` or ``Image.show()``, go into a folder that is not committed. As a Sphinx
extension, this module puts them below the block. What is kept has the digest of the block and of all blocks before it,
so that what another page printed, or this one yesterday, is never shown.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib as mpl
from docutils import nodes
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt
from PIL import Image
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).parent
FOLDER = "_build/outputs"  # in the folder of the pages
RECORD = "record.json"
SCALE = 1.5  # pixels of a figure for each pixel on the page
_COLOR_CODES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Block:
    """A Python block of a page."""

    code: str
    line: int
    """Line of the page before the first one of the code, from 1."""
    digest: str
    """Of this block and of those before it."""


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page that run: fences that are marked ``python``."""
    digest = hashlib.sha256()
    found = []
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.info.strip() == "python":
            digest.update(token.content.encode() + b"\0")
            found.append(Block(token.content, token.map[0] + 1, digest.hexdigest()))
    return found


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in the current folder, and keep what they show; nothing, if one of them fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mpl.use("agg")
    namespace = {"__name__": "__main__"}
    record = {}
    for i, block in enumerate(blocks(page.read_text(encoding="utf-8"))):
        code = compile("\n" * block.line + block.code, str(page), "exec")  # tracebacks show the line of the page
        printed = io.StringIO()
        try:
            with _shown(folder, f"{i}") as pictures, redirect_stdout(printed):
                exec(code, namespace)
        finally:
            print(printed.getvalue(), end="")  # noqa: T201  (for who runs the tests)
        text = _COLOR_CODES.sub("", printed.getvalue()).replace(str(Path.cwd()) + os.sep, "")
        record[block.digest] = {"text": text, "pictures": pictures}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _shown(folder: Path, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """Yield a list that gets the pictures that are shown; a figure that stays open is an error."""
    pictures: list[dict[str, Any]] = []

    def keep(save: Callable[[Path], object], alt: str | None) -> None:
        assert alt, "a picture without a text that says what it shows: plt.figure('...'), image.show(title='...')"
        path = folder / f"{prefix}-{len(pictures)}.png"
        save(path)
        with Image.open(path) as image:
            pictures.append({"file": path.name, "alt": alt, "size": image.size})

    def show_figures(**_: object) -> None:
        for number in plt.get_fignums():
            figure = plt.figure(number)
            keep(
                lambda path, figure=figure: figure.savefig(path, dpi=100 * SCALE, bbox_inches="tight"),
                figure.get_label(),
            )
            pictures[-1]["size"] = [round(side / SCALE) for side in pictures[-1]["size"]]
            plt.close(figure)

    def show_image(image: Image.Image, title: str | None = None) -> None:
        keep(image.save, title)

    try:
        with mock.patch.object(plt, "show", show_figures), mock.patch.object(Image.Image, "show", show_image):
            yield pictures
        assert not plt.get_fignums(), "a figure that is never shown: call plt.show()"
    finally:
        plt.close("all")


class ShowOutputs(SphinxTransform):
    """Put below each block of a page what it showed when it ran."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        """Change the page as it is read."""
        docname, folder = self.env.docname, self.config.outputs_folder
        path = f"{folder}/{docname}/{RECORD}"
        self.env.note_dependency(path)  # read the page again when what it shows has changed
        page = Path(self.env.doc2path(docname))
        if page.suffix != ".md" or not (self.env.srcdir / path).is_file():
            return
        record = json.loads((self.env.srcdir / path).read_text(encoding="utf-8"))
        of_page = iter(blocks(page.read_text(encoding="utf-8")))
        block = next(of_page, None)
        for node in list(self.document.findall(nodes.literal_block)):
            if block is not None and node.astext().strip() == block.code.strip():
                shown = record.get(block.digest)
                if shown is not None and (below := _below(shown, f"/{folder}/{docname}")):
                    node.parent.insert(node.parent.index(node) + 1, below)
                block = next(of_page, None)


def _below(shown: dict[str, Any], folder: str) -> list[nodes.Node]:
    """Return what is put below a block."""
    below: list[nodes.Node] = []
    if text := shown["text"].rstrip():
        below.append(nodes.literal_block(text, text, language="text", classes=["output"]))
    for picture in shown["pictures"]:
        width, _ = picture["size"]
        image = nodes.image(uri=f"{folder}/{picture['file']}", alt=picture["alt"], width=f"{width}px")
        below.append(nodes.figure("", image, classes=["output"]))
    return below


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_config_value("outputs_folder", FOLDER, "env", [str])
    app.add_transform(ShowOutputs)
    app.connect("builder-inited", _add_style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_style(app: Sphinx) -> None:
    app.config.html_static_path = [*app.config.html_static_path, str(DOCS / "pages.css")]
    app.add_css_file("pages.css")
