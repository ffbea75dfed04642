"""A contact sheet: an image, and its neighbors."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from autobackbone.extraction.decoding import UnreadableError
from autobackbone.extraction.thumbnails import Thumbnails, elided

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_CELL = 200  # pixels of an image's longer side
_GAP = 16
_LABEL = 46  # below an image: two lines
_MARGIN = 24
_HEAD = 44
_MOST = 5  # columns of neighbors
_INK, _QUIET, _LINE, _EMPTY, _WARNING = "#1b2128", "#5c6670", "#d5dbe2", "#f1f3f6", "#b3261e"


def draw_sheet(title: str, query: str, neighbors: Sequence[tuple[float, str, str]], note: str) -> Image.Image:
    """Draw an image on the left, and its neighbors beside it, most similar first.

    Parameters
    ----------
    title
        The text above.
    query
        The path of the image.
    neighbors
        Similarity, id and path of each.
    note
        What has to be said of the weights; may be empty.
    """
    columns = min(_MOST, max(3, len(neighbors)))
    rows = max(1, math.ceil(len(neighbors) / columns))
    step_x, step_y = _CELL + _GAP, _CELL + _LABEL + _GAP
    head = _HEAD + (28 if note else 0)
    left = _MARGIN + step_x + 2 * _GAP  # of the neighbors
    size = (left + columns * step_x - _GAP + _MARGIN, head + _MARGIN + rows * step_y)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(20), ImageFont.load_default(15)
    pen.text((_MARGIN, 18), _fitted(title, big, size[0] - 2 * _MARGIN), fill=_INK, font=big)
    if note:
        pen.text((_MARGIN, 46), note, fill=_WARNING, font=small)
    thumbnails = Thumbnails(_CELL)
    top = head + 18
    _cell(sheet, (_MARGIN, top), thumbnails, query, "query", _name(query), small)
    line = left - 1.5 * _GAP
    pen.line((line, top, line, size[1] - _MARGIN), fill=_LINE, width=2)
    for i, (similarity, key, path) in enumerate(neighbors):
        place = (left + i % columns * step_x, top + i // columns * step_y)
        _cell(sheet, place, thumbnails, path, f"{i + 1}    {similarity:.4f}", key, small)
    return sheet


def _cell(
    sheet: Image.Image, place: tuple[int, int], thumbnails: Thumbnails, path: str, label: str, name: str, font: _Font
) -> None:
    """Draw an image, or why there is none, and two lines of text below it."""
    pen = ImageDraw.Draw(sheet)
    x, y = place
    try:
        image = thumbnails.read(path)
    except UnreadableError as err:
        pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), fill=_EMPTY, outline=_LINE)
        reason = _fitted(str(err), font, _CELL - 20)
        pen.text((x + _CELL // 2, y + _CELL // 2), reason, fill=_QUIET, font=font, anchor="mm")
    else:
        pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), fill=_EMPTY)
        sheet.paste(image, (x + (_CELL - image.width) // 2, y + (_CELL - image.height) // 2))
    pen.text((x, y + _CELL + 6), label, fill=_INK, font=font)
    pen.text((x, y + _CELL + 25), _fitted(name, font, _CELL), fill=_QUIET, font=font)


def _fitted(text: str, font: _Font, width: int) -> str:
    """Return a text on one line, with the middle left out if it is wider than a number of pixels."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    for fits in range(min(len(line), 400), 1, -1):
        if font.getlength(shorter := elided(line, fits)) <= width:
            return shorter
    return line[:1]


def _name(path: str) -> str:
    return path.rpartition("/")[2] or "in no file"
