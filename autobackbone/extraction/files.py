"""The files that an address names: one file, those in a folder, or those that match a pattern."""

from __future__ import annotations

import os
import re
from glob import glob, has_magic
from typing import TYPE_CHECKING

from autobackbone.errors import InputError
from autobackbone.extraction.images import file_system_of, is_remote
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is an image in a folder or an archive. Files that are named one by one may have any name.
IMAGES = tuple(
    ".avif .bmp .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
SEPARATORS = {".csv": ",", ".tsv": "\t"}
LISTS = (".csv", ".parquet", ".tar", ".tsv", ".txt")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as webdataset writes names of shards


class Files:
    """The files that an address names: one file, those in a folder, or those that match a pattern.

    Attributes
    ----------
    names
        Their addresses, sorted.
    is_folder
        Whether the address is a folder.
    """

    def __init__(self, address: str) -> None:
        self.base = address
        self.is_folder = False
        self._remote = is_remote(address)
        self._root = ""
        self._paths: dict[str, str] = {}  # in the file system, by address
        try:
            self.names = self._list_remote() if self._remote else self._list_local()
        except InputError:
            raise
        except Exception as err:  # every protocol has errors of its own
            if not self._remote and not isinstance(err, OSError):
                raise
            msg = f"{shown(address)} cannot be listed ({type(err).__name__}: {err}); check the address and the network."
            raise InputError(msg) from err

    def _list_local(self) -> list[str]:
        if os.path.isdir(self.base):  # noqa: PTH112
            self.is_folder = True
            return list(_walk(self.base, set()))
        if os.path.exists(self.base):  # noqa: PTH110
            return [self.base]
        pattern = _RANGE.search(self.base)
        if pattern:
            low, high = pattern.groups()
            numbers = [f"{i:0{len(low)}d}" for i in range(int(low), int(high) + 1)]
            return [name for i in numbers for name in Files(_RANGE.sub(i, self.base, count=1)).names]
        if has_magic(self.base):
            names = sorted(name for name in glob(self.base, recursive=True) if os.path.isfile(name))  # noqa: PTH113, PTH207
            if not names:
                msg = f"No file matches {shown(self.base)}; check the pattern (** matches folders at any depth)."
                raise InputError(msg)
            return names
        msg = f"There is no file or folder {shown(self.base)}; check the path."
        raise InputError(msg)

    def _list_remote(self) -> list[str]:
        file_system, path = file_system_of(self.base)
        is_web = self.base.startswith(("http://", "https://"))
        if is_web and suffix_of(path) in (*IMAGES, *LISTS) and not has_magic(path):
            return [self.base]  # it is there, or reading it says that it is not
        if has_magic(path):
            found = file_system.glob(path)
        elif file_system.isfile(path):
            return [self.base]
        elif file_system.isdir(path):
            self.is_folder = True
            self._root = path.rstrip("/")
            found = [name for name in file_system.find(path) if "/." not in name[len(self._root) :]]
        else:
            found = []
        if not found:
            msg = f"There is nothing at {shown(self.base)}; check the address."
            raise InputError(msg)
        chain = self.base.partition("::")[1:]
        addresses = {name: file_system.unstrip_protocol(name) + "".join(chain) for name in found}
        self._paths = {address: name for name, address in addresses.items()}
        return sorted(self._paths)

    def id_of(self, name: str) -> str:
        """Return the path of a file within the folder; the address if it is no folder."""
        if not self.is_folder:
            return name
        if self._remote:
            return self._paths[name][len(self._root) :].lstrip("/")
        return name[len(os.path.join(self.base, "")) :].replace(os.sep, "/")  # noqa: PTH118


def _walk(folder: str, seen: set[str]) -> Iterator[str]:
    """Find the files below a folder, in the order of their names. Links are followed, hidden files left out."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    with os.scandir(folder) as entries:
        ordered = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            yield from _walk(entry.path, {*seen, real})
        else:
            yield entry.path


def suffix_of(name: str) -> str:
    """Return the end of a name that says what it is, such as ``.jpg``; of a chained address, that of the file."""
    name = next((link for link in name.split("::") if "://" in link), name)
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def as_text(name: str) -> str:
    """Return a path as text that can be written as UTF-8. Bytes that are no text are escaped."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # characters that no path has
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
