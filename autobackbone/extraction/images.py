"""The images to extract features of: a reference to each, and reading what it refers to."""

from __future__ import annotations

import os
import stat
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from autobackbone.errors import InputError
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_TRIES = 3  # to read from a remote address
_TIMEOUT = 5.0  # seconds that a web server may be silent
_MAY_PASS = (408, 425, 429)  # statuses of HTTP below 500 that say to come again
_MEMBER = "!"  # between an archive or a table, and the member or row in it


class ImageRef(NamedTuple):
    """A reference to an image.

    Attributes
    ----------
    id
        Unique among the images of a run: the path within the folder, the address in the list, the number of the row.
    path
        The address, as the table of features gives it; empty if there is none.
    file
        The file to read, on this machine or remote.
    row
        Position in the data set that holds the image; of a table, the row group.
    offset, size
        In bytes, of the image in an archive; `size` is negative for a whole file.
    """

    id: str
    path: str = ""
    file: str = ""
    row: int = 0
    offset: int = 0
    size: int = -1


class Images(Protocol):
    """Listed images. They can be pickled, for engines with several processes."""

    @property
    def refs(self) -> Sequence[ImageRef]:
        """Every image, in order; ids are unique."""

    def read(self, ref: ImageRef) -> Any:
        """Return the bytes of an encoded image, a PIL image, an array, or a tensor. May be called by several threads.

        Raises
        ------
        OSError
            If this image cannot be read.
        InputError
            If the place where the images are is out of reach.
        """


def is_remote(address: str) -> bool:
    """Whether an address is one for fsspec, and not a path of this machine."""
    return "://" in address  # also of a chain; "::" alone may be in the name of a file


@dataclass(frozen=True)
class FileImages:
    """Images in files or in uncompressed archives, on this machine or remote."""

    refs: Sequence[ImageRef]

    def read(self, ref: ImageRef) -> bytes:
        """Return the bytes of a file, or those of a member of an archive."""
        if is_remote(ref.file):
            return _read_remote(ref)
        with open(ref.file, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                msg = "it is no file, but a device or a pipe"
                raise OSError(msg)
            if ref.size < 0:
                return file.read()
            file.seek(ref.offset)
            return file.read(ref.size)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def file_system_of(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it. A web server may not be silent for ever."""
    import fsspec

    if not is_remote(address):  # where "::" is a part of a name
        path = os.path.abspath(os.path.expanduser(address))  # noqa: PTH100, PTH111
        return fsspec.filesystem("file"), path.replace(os.sep, "/")
    options = {}
    if address.startswith(("http://", "https://")):
        import aiohttp

        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=_TIMEOUT, sock_read=_TIMEOUT)}}
    file_system, path = fsspec.core.url_to_fs(address, **options)
    return file_system, path


def open_file(address: str) -> Any:
    """Open a file of this machine or a remote one, to read bytes."""
    file_system, path = file_system_of(address)
    return file_system.open(path, "rb")


def _read_remote(ref: ImageRef) -> bytes:
    """Read from a remote address. A failure that may pass is tried again."""
    start, end = (None, None) if ref.size < 0 else (ref.offset, ref.offset + ref.size)
    for attempt in range(1, _TRIES + 1):
        try:
            file_system, path = file_system_of(ref.file)
            content: bytes = file_system.cat_file(path, start=start, end=end)
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as err:  # every protocol has errors of its own
            status = getattr(err, "status", None)
            if isinstance(status, int) and 400 <= status < 500 and status not in _MAY_PASS:
                msg = f"the server answers {status}"
                raise OSError(msg) from err
            if attempt == _TRIES:
                msg = f"{shown(ref.path)} cannot be read ({type(err).__name__}: {err}); run the same again to go on."
                raise InputError(msg) from err
            time.sleep(attempt / 4)
        else:
            return content
    raise AssertionError


class _RowGroups:
    """The row groups that were read last: several threads read neighboring rows at about the same time."""

    def __init__(self, count: int = 3) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._columns: dict[tuple[str, int, str], Any] = {}

    def column(self, file: str, group: int, name: str) -> Any:
        import pyarrow.parquet as pq

        with self._lock:
            key = (file, group, name)
            if key not in self._columns:
                while len(self._columns) >= self._count:
                    del self._columns[next(iter(self._columns))]
                with open_file(file) as opened:
                    self._columns[key] = pq.ParquetFile(opened).read_row_group(group, columns=[name]).column(0)
            return self._columns[key]

    def __reduce__(self) -> Any:
        return (_RowGroups, (self._count,))


@dataclass(frozen=True)
class TableImages:
    """Encoded images in a column of Parquet files: binary, or a struct with ``bytes``, as Hugging Face writes them.

    The `row` of a reference is the row group, and its `offset` the row in it.
    """

    refs: Sequence[ImageRef]
    column: str
    groups: _RowGroups = field(default_factory=_RowGroups, repr=False)

    def read(self, ref: ImageRef) -> bytes:
        """Return the bytes in a row."""
        content = self.groups.column(ref.file, ref.row, self.column)[ref.offset].as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        if content is None:
            msg = "the row holds no image"
            raise OSError(msg)
        return bytes(content)


@dataclass(frozen=True)
class DatasetImages:
    """Images of a data set: a torch ``Dataset``, a Hugging Face ``Dataset``, or a list of images.

    Attributes
    ----------
    refs
        One per item, by `ImageRef.row`.
    dataset
        Anything with ``__getitem__``.
    column
        Key of the image if items are mappings; ``None`` for the first value of a tuple, or the item itself.
    """

    refs: Sequence[ImageRef]
    dataset: Any
    column: str | None = None

    def read(self, ref: ImageRef) -> Any:
        """Return the image of an item."""
        item = self.dataset[ref.row]
        if self.column is not None:
            item = item[self.column]
        elif isinstance(item, tuple | list) and item:
            item = item[0]
        if isinstance(item, dict) and "bytes" in item:  # as Hugging Face keeps an image that is not decoded
            item = item["path"] if item["bytes"] is None else item["bytes"]
        if isinstance(item, str | os.PathLike):
            return FileImages(()).read(ImageRef(ref.id, file=os.fspath(item)))
        return item


def member(container: str, name: str | int) -> str:
    """Return the address of a member of an archive, or of a row of a table."""
    return f"{container}{_MEMBER}{name}"
