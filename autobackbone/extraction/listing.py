"""From what a user names to a list of images: a folder, a pattern, a list, a table, archives, a data set."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from glob import glob, has_magic
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

from autobackbone.errors import BackboneError, ConfigError, InputError
from autobackbone.extraction.images import (
    DatasetImages,
    FileImages,
    ImageRef,
    Images,
    TableImages,
    file_system_of,
    is_remote,
    member,
    open_file,
)
from autobackbone.values import did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

# What is an image in a folder or an archive. Files that are named one by one may have any name.
_IMAGES = tuple(
    ".avif .bmp .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LISTS = (".csv", ".parquet", ".tar", ".tsv", ".txt")
_NOT_READ = tuple(".7z .arrow .bz2 .gz .h5 .json .jsonl .npy .npz .rar .tgz .xls .xlsx .xz .zip .zst".split())  # noqa: SIM905
_READ = ": .txt, .csv, .tsv and .parquet files, and uncompressed .tar files are."
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as webdataset writes names of shards


def list_images(images: Any, column: str | None = None) -> tuple[Images, int]:
    """List images.

    Parameters
    ----------
    images
        What `extract_features` takes.
    column
        Of a table or a data set.

    Returns
    -------
    Images
        Each image once.
    int
        How many more times images were listed.

    Raises
    ------
    InputError
        If there is no such file or folder, no image in it, or no such column.
    ConfigError
        If `images` is nothing that holds images, or if there are no columns to choose `column` from.
    """
    name: Any = column
    if name is not None and not isinstance(name, str):
        msg = f"column must be the name of a column, or None, got {shown(column)}."
        raise ConfigError(msg)
    if isinstance(images, str | os.PathLike):
        found = _from_address(os.fspath(images), column)
    elif hasattr(images, "cast_column") and hasattr(images, "column_names"):
        found = _from_hugging_face(images, column)
    elif isinstance(images, list | tuple):
        found = _from_items(images, column)
    elif _is_dataset(images):
        found = _from_dataset(images, column)
    elif isinstance(images, Collection) and not isinstance(images, bytes | bytearray | Mapping):
        found = _from_items(list(images), column)
    else:
        msg = (
            "images must be a folder, a pattern, a list, a table, an archive, or a data set with a length, got "
            f"{shown(images)}{'; give a list of its items' if isinstance(images, Iterator) else ''}."
        )
        raise ConfigError(msg)
    if not found.refs:
        msg = f"There are no images in {shown(images)}; images are files such as .jpg, .png and .webp."
        raise InputError(msg)
    by_id: dict[str, ImageRef] = {}
    for ref in found.refs:
        by_id.setdefault(ref.id, ref)
    repeated = len(found.refs) - len(by_id)
    return (replace(cast("Any", found), refs=list(by_id.values())) if repeated else found), repeated


def _is_dataset(images: Any) -> bool:
    """Whether something has items by position, and a number of them."""
    from torch.utils.data import IterableDataset

    not_by_position = (str, bytes, bytearray, Mapping, IterableDataset)
    return hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images, not_by_position)


def _from_dataset(images: Any, column: str | None) -> Images:
    """List the items of a data set. The first one shows whether there is such a column."""
    refs = _numbered(len(images))
    try:
        first = images[0] if refs else None
    except Exception:  # noqa: BLE001 - of a user's data set; it is told when this image's turn comes
        first = None
    if isinstance(first, Mapping) and not (column is None and "bytes" in first):
        _chosen(column, list(first), "the data set")
    elif column is not None and first is not None and not isinstance(first, Mapping):
        msg = f"column={shown(column)}: items of the data set are {type(first).__name__}s without names; leave it out."
        raise ConfigError(msg)
    if isinstance(first, Mapping) and column is None and "bytes" not in first:
        column = next(iter(first))  # the only one
    return DatasetImages(refs, images, column)


def _from_address(address: str, column: str | None) -> Images:
    """List what a path or an address names."""
    files = _Files(address)
    suffixes = {_suffix(name) for name in files.names} if not files.is_folder else set()
    if suffixes == {".parquet"}:
        return _from_parquet(files.names, column, files.base)
    if column is not None and not suffixes & set(_SEPARATORS):
        msg = f"column={shown(column)}: {shown(address)} is no table; leave it out, or name a .csv or .parquet file."
        raise ConfigError(msg)
    if len(files.names) == 1 and not files.is_folder:
        name = files.names[0]
        if _suffix(name) in _SEPARATORS:
            return FileImages(_refs_in(_csv_values(name, column), name))
        if _suffix(name) == ".txt":
            lines = _content(name).decode("utf-8-sig", "surrogateescape").split("\n")
            return FileImages(_refs_in([line.strip() for line in lines if line.strip()], name))
        if _suffix(name) in _NOT_READ:
            msg = f"{shown(address)} is neither an image nor a list that is read here; unpack or convert it{_READ}"
            raise ConfigError(msg)
    if suffixes == {".tar"}:
        return FileImages([ref for name in files.names for ref in _members(name)])
    names = [name for name in files.names if _suffix(name) in _IMAGES] if files.is_folder else files.names
    return FileImages([ImageRef(_text(files.id_of(name)), _text(name), name) for name in names])


class _Files:
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
            return [name for i in numbers for name in _Files(_RANGE.sub(i, self.base, count=1)).names]
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
        if is_web and _suffix(path) in (*_IMAGES, *_LISTS) and not has_magic(path):
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
        return os.path.relpath(name, self.base).replace(os.sep, "/")


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


def _refs_in(values: Sequence[str], listing: str) -> list[ImageRef]:
    """Return references to the paths in a list. Relative ones are relative to the folder of the list."""
    folder = listing.rpartition("/")[0] if is_remote(listing) else os.path.dirname(listing)  # noqa: PTH120
    return [ImageRef(_text(value), _text(path := _join(folder, value)), path) for value in values]


def _join(folder: str, path: str) -> str:
    if is_remote(path) or os.path.isabs(path) or not folder:  # noqa: PTH117
        return path
    return f"{folder}/{path}"


def _csv_values(name: str, column: str | None) -> list[str]:
    import csv

    content = _content(name).decode("utf-8-sig", "surrogateescape")
    rows = csv.reader(StringIO(content, newline=""), delimiter=_SEPARATORS[_suffix(name)])
    try:
        header = next(rows, [])
        if not header:
            msg = f"{shown(name)} is empty; its first line must name the columns."
            raise InputError(msg)
        position = header.index(_chosen(column, header, name))
        return [row[position] for row in rows if len(row) > position and row[position]]
    except csv.Error as err:
        msg = f"{shown(name)} cannot be read as a table ({err})."
        raise InputError(msg) from err


def _content(name: str) -> bytes:
    """Return the content of a list or a table."""
    try:
        return FileImages(()).read(ImageRef("", name, name))
    except OSError as err:
        msg = f"{shown(name)} cannot be read ({err.strerror or err}); check the path."
        raise InputError(msg) from err


def _from_parquet(names: Sequence[str], column: str | None, address: str) -> Images:
    """List the images of Parquet files: paths, or encoded images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refs: list[ImageRef] = []
    embedded = False
    for name in names:
        with _told(name, "Parquet"), open_file(name) as opened:
            table = pq.ParquetFile(opened)
            chosen = _chosen(column, table.schema_arrow.names, address)
            kind = table.schema_arrow.field(chosen).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if embedded and not _is_embedded(kind):
                msg = f"Column {chosen!r} of {shown(name)} is {kind}, that of others holds encoded images."
                raise InputError(msg)
            if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
                values = table.read(columns=[chosen]).column(0).to_pylist()
                refs += _refs_in([value for value in values if value], name)
                continue
            if not _is_embedded(kind) or (refs and not embedded):
                msg = f"Column {chosen!r} of {shown(name)} is {kind}; it must hold paths or encoded images."
                raise InputError(msg)
            embedded, column, row = True, chosen, 0
            for group in range(table.num_row_groups):
                for offset in range(table.metadata.row_group(group).num_rows):
                    place = _text(member(name, row))
                    refs.append(ImageRef(place, place, name, group, offset))
                    row += 1
    return TableImages(refs, column or "") if embedded else FileImages(refs)


def _is_embedded(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _from_hugging_face(images: Any, column: str | None) -> Images:
    import datasets

    if not hasattr(images, "__getitem__") or not hasattr(images, "__len__"):
        msg = "A data set that streams cannot be continued after a stop; give a map-style one, or its files."
        raise ConfigError(msg)
    kinds = (name for name, kind in images.features.items() if isinstance(kind, datasets.Image))
    chosen = _chosen(column or next(kinds, None), images.column_names, "the data set")
    if isinstance(images.features[chosen], datasets.Image):
        images = images.cast_column(chosen, datasets.Image(decode=False))
    return DatasetImages(_numbered(len(images)), images.with_format(None), chosen)


def _from_items(items: Sequence[Any], column: str | None) -> Images:
    """List a list of paths, of tables, of archives, or of images."""
    if all(isinstance(item, str | os.PathLike) for item in items):
        paths = [os.fspath(item) for item in items]
        suffixes = set(map(_suffix, paths))
        if suffixes == {".parquet"}:
            return _from_parquet(paths, column, paths[0])
        if suffixes == {".tar"} and column is None:
            return FileImages([ref for path in paths for ref in _members(path)])
    if column is not None:
        msg = f"column={shown(column)}: a list has no columns; leave it out."
        raise ConfigError(msg)
    if all(isinstance(item, str | os.PathLike) for item in items):
        return FileImages([ImageRef(_text(path), _text(path), path) for path in paths])
    return DatasetImages(_numbered(len(items)), items)


def _members(archive: str) -> Iterator[ImageRef]:
    """List the images in a tar file by their place, so that they can be read in any order."""
    with (
        _told(archive, "an uncompressed tar file"),
        open_file(archive) as opened,
        tarfile.open(fileobj=opened, mode="r:") as tar,
    ):
        content: dict[str, tuple[int, int]] = {}
        for entry in tar:
            if entry.isfile():
                content[entry.name] = entry.offset_data, entry.size
            name = entry.linkname if entry.islnk() else entry.name  # a second name of a file before
            hidden = entry.name.rpartition("/")[2].startswith(".")
            if name in content and _suffix(entry.name) in _IMAGES and not hidden:
                place = _text(member(archive, entry.name))
                offset, size = content[name]
                yield ImageRef(place, place, archive, offset=offset, size=size)


@contextmanager
def _told(name: str, kind: str) -> Iterator[None]:
    """Turn errors about a file into InputError."""
    import pyarrow as pa

    try:
        yield
    except BackboneError:
        raise
    except Exception as err:  # every protocol has errors of its own
        if not is_remote(name) and not isinstance(err, OSError | EOFError | tarfile.TarError | pa.ArrowException):
            raise
        msg = f"{shown(name)} cannot be read as {kind} ({str(err) or type(err).__name__})."
        raise InputError(msg) from err


def _chosen(column: str | None, columns: Sequence[str], where: str) -> str:
    """Return a column that exists."""
    names = ", ".join(map(repr, columns[:20]))
    if column is None and len(columns) == 1:
        return columns[0]
    if column is None:
        msg = f"Which column of {shown(where)} holds the images? Give column=, one of {names}."
        raise ConfigError(msg)
    if column not in columns:
        msg = f"{shown(where)} has no column {column!r}; {did_you_mean(column, columns, f'it has {names}.')}"
        raise InputError(msg)
    return column


def _numbered(count: int) -> list[ImageRef]:
    return [ImageRef(str(i), row=i) for i in range(count)]


def _suffix(name: str) -> str:
    name = next((link for link in name.split("::") if "://" in link), name)
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _text(name: str) -> str:
    """Return a path as text that can be written as UTF-8. Bytes that are no text are escaped."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # characters that no path has
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
