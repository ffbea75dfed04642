"""Small pictures of the images in a table."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from autobackbone.errors import BackboneError
from autobackbone.extraction.decoding import UnreadableError, decode, open_image
from autobackbone.extraction.files import suffix_of
from autobackbone.extraction.images import FileImages, ImageRef, Images, is_remote
from autobackbone.extraction.listing import list_images
from autobackbone.extraction.tables import image_column
from autobackbone.pixels import convert

if TYPE_CHECKING:
    from PIL import Image

_NO_FILE = "no such file"


class Thumbnails:
    """Reads images by the paths that a table gives, and shrinks them. Threads may share it.

    Parameters
    ----------
    size
        Pixels of the longer side.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._containers: dict[str, tuple[Images, dict[str, ImageRef]]] = {}

    def read(self, path: str) -> Image.Image:
        """Return an upright RGB image, shrunk if it is larger.

        Raises
        ------
        UnreadableError
            If there is no such file, or it is no image; the text is short.
        """
        try:
            opened = open_image(self._content(path))
            larger = max(opened.width, opened.height)
            image = convert(decode(opened, min(1.0, self._size / max(1, larger))), "RGB")
        except OSError as err:
            raise UnreadableError(_NO_FILE if isinstance(err, FileNotFoundError) else "cannot be read") from err
        except BackboneError as err:
            msg = "cannot be shown"
            raise UnreadableError(msg) from err
        image.thumbnail((self._size, self._size))
        return image

    def _content(self, path: str) -> bytes:
        if not path:
            msg = "not in a file"
            raise UnreadableError(msg)
        container = path.partition("!")[0]
        if is_remote(path) or Path(path).exists() or container == path:
            return FileImages(()).read(ImageRef(path, path, path))
        with self._lock:  # an archive is listed once
            if container not in self._containers:
                column = image_column(container) if suffix_of(container) == ".parquet" else None
                images, _ = list_images(container, column)
                self._containers[container] = images, {ref.path: ref for ref in images.refs}
            images, refs = self._containers[container]
        if path not in refs:
            raise UnreadableError(_NO_FILE)
        content: bytes = images.read(refs[path])
        return content


def elided(text: str, fits: int) -> str:
    """Return a text with the middle left out if it has more characters than fit."""
    if len(text) <= fits:
        return text
    end = (fits - 1) * 2 // 3  # names differ at their ends
    return f"{text[: fits - 1 - end]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - end :]}"
