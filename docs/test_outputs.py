"""What snippets print and draw is kept when they run, and shown below them in the built pages; never what is stale."""

import html
import re
import subprocess
import sys
import traceback

import imagesize
import pytest
from outputs import DOCS, FOLDER, run_page

PAGE = """\
# A page

```python
import os

number = int(os.environ.get("NUMBER", 7))
print(f"the number is {number} < 10")
```

Between.

```console
$ a command
```

- ```python
  from matplotlib import pyplot as plt

  plt.figure("A line & more", figsize=(2, 1))
  plt.plot([1, 2])
  print("drawn")
  plt.show()
  ```

```python
from PIL import Image

Image.new("RGB", (30, 20), "red").show(title="A red picture")
```

After.
"""

CONF = f"""\
import sys

sys.path.insert(0, {str(DOCS)!r})
extensions = ["myst_parser", "outputs"]
root_doc = "page"
"""


class Project:
    """A documentation of one page."""

    def __init__(self, folder):
        self.source, self.built = folder / "docs", folder / "html"
        self.source.mkdir()
        self.page = self.source / "page.md"
        self.page.write_text(PAGE, encoding="utf-8")
        (self.source / "conf.py").write_text(CONF, encoding="utf-8")

    @property
    def kept(self):
        return self.source / FOLDER / "page"

    def run(self):
        run_page(self.page, self.kept)

    def change(self, old, new):
        text = self.page.read_text(encoding="utf-8")
        assert old in text
        self.page.write_text(text.replace(old, new), encoding="utf-8")

    def build(self):
        """Build what has changed; return the page as text, with outputs and pictures in braces."""
        command = [sys.executable, "-m", "sphinx", "-qW", self.source, self.built]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        text = (self.built / "page.html").read_text(encoding="utf-8")
        body = re.search(r'<div class="body" role="main">(.*?)<div class="clearer">', text, re.DOTALL)[1]
        body = re.sub(r'<div class="output[^>]*>(.*?)</div>', r"{\1}", body, flags=re.DOTALL)
        body = re.sub(r'<figure[^>]*output.*?<img alt="(.*?)".*?</figure>', r"{picture: \1}", body, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", "", body)).split())


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Project(tmp_path)


OUTPUTS = ("{the number is 7 < 10 }", "{drawn }", "{picture: A line & more}", "{picture: A red picture}")


def test_shown_below_their_blocks(project):
    project.run()
    page = project.build()
    for output in OUTPUTS:
        assert page.count(output) == 1
    pieces = ["number}", OUTPUTS[0], "Between", "a command", "plt.show()", *OUTPUTS[1:3], "red", OUTPUTS[3], "After"]
    places = [page.index(piece) for piece in pieces]
    assert places == sorted(places)
    pictures = {imagesize.get(path) for path in (project.built / "_images").iterdir()}
    assert (30, 20) in pictures
    assert len(pictures) == 2
    assert (project.built / "_static" / "pages.css").is_file()


def test_without_a_record(project):
    page = project.build()
    assert "{the" not in page
    assert "{picture" not in page
    project.run()
    assert all(output in project.build() for output in OUTPUTS), "a build that goes on takes what is new"


def test_changed_outputs(project, monkeypatch):
    for number in ("7", "8"):
        monkeypatch.setenv("NUMBER", number)
        project.run()
        assert f"{{the number is {number} < 10 }}" in project.build()


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("Between", "In between", 4),
        ("(30, 20)", "(20, 30)", 3),
        ("plt.plot([1, 2])", "plt.plot([2, 1])", 1),
        ("the number", "a number", 0),
        ("Between.", "```python\nnumber = 8\n```", 1),
    ],
)
def test_stale_outputs_are_not_shown(project, old, new, shown):
    project.run()
    project.change(old, new)
    page = project.build()
    assert [output in page for output in OUTPUTS] == [i < shown for i in range(4)]


def test_a_page_that_fails(project):
    project.run()
    project.change('print("drawn")', "1 / 0")
    with pytest.raises(ZeroDivisionError) as caught:
        project.run()
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    line = next(i for i, line in enumerate(project.page.read_text(encoding="utf-8").splitlines(), 1) if "1 / 0" in line)
    assert (frame.filename, frame.lineno) == (str(project.page), line)
    project.change("1 / 0", 'print("drawn")')
    assert not any(output in project.build() for output in OUTPUTS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plt.show()", "plt.gcf()", "never shown"),
        ('"A line & more", ', "", "a text that says what it shows"),
        ('title="A red picture"', "", "a text that says what it shows"),
    ],
)
def test_pictures_that_nobody_sees_are_errors(project, old, new, message):
    project.change(old, new)
    with pytest.raises(AssertionError, match=message):
        project.run()
    project.page.write_text(PAGE, encoding="utf-8")
    project.run()  # nothing stays open


def test_paths_are_those_that_a_reader_has(project):
    project.change('print("drawn")', 'print("\\x1b[1m" + os.path.abspath("file.txt") + "\\x1b[0m")')
    project.run()
    assert "{file.txt }" in project.build()
