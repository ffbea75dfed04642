"""References to the images that a file lists or holds: text, tables, archives."""

from __future__ import annotations

import os
import tarfile
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from autobackbone.errors import BackboneError, ConfigError, InputError
from autobackbone.extraction.files import IMAGES, SEPARATORS, as_text, suffix_of
from autobackbone.extraction.images import FileImages, ImageRef, Images, TableImages, is_remote, member, open_file
from autobackbone.values import did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def refs_in(values: Sequence[str], listing: str) -> list[ImageRef]:
    """Return references to the paths in a list. Relative ones are relative to the folder of the list."""
    folder = listing.rpartition("/")[0] if is_remote(listing) else os.path.dirname(listing)  # noqa: PTH120
    return [ImageRef(as_text(value), as_text(path := _join(folder, value)), path) for value in values]


def _join(folder: str, path: str) -> str:
    if is_remote(path) or os.path.isabs(path) or not folder:  # noqa: PTH117
        return path
    return f"{folder}/{path}"


def csv_values(name: str, column: str | None) -> list[str]:
    """Return the values in a column of a ``.csv`` or ``.tsv`` file, without empty ones."""
    import csv

    content = content_of(name).decode("utf-8-sig", "surrogateescape")
    rows = csv.reader(StringIO(content, newline=""), delimiter=SEPARATORS[suffix_of(name)])
    try:
        header = next(rows, [])
        if not header:
            msg = f"{shown(name)} is empty; its first line must name the columns."
            raise InputError(msg)
        position = header.index(chosen(column, header, name))
        return [row[position] for row in rows if len(row) > position and row[position]]
    except csv.Error as err:
        msg = f"{shown(name)} cannot be read as a table ({err})."
        raise InputError(msg) from err


def content_of(name: str) -> bytes:
    """Return the content of a list or a table."""
    try:
        return FileImages(()).read(ImageRef("", name, name))
    except OSError as err:
        msg = f"{shown(name)} cannot be read ({err.strerror or err}); check the path."
        raise InputError(msg) from err


def from_parquet(names: Sequence[str], column: str | None, address: str) -> Images:
    """List the images of Parquet files: paths, or encoded images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refs: list[ImageRef] = []
    embedded = False
    for name in names:
        with _told(name, "Parquet"), open_file(name) as opened:
            table = pq.ParquetFile(opened)
            field = chosen(column, table.schema_arrow.names, address)
            kind = table.schema_arrow.field(field).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if embedded and not _is_embedded(kind):
                msg = f"Column {field!r} of {shown(name)} is {kind}, that of others holds encoded images."
                raise InputError(msg)
            if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
                values = table.read(columns=[field]).column(0).to_pylist()
                refs += refs_in([value for value in values if value], name)
                continue
            if not _is_embedded(kind) or (refs and not embedded):
                msg = f"Column {field!r} of {shown(name)} is {kind}; it must hold paths or encoded images."
                raise InputError(msg)
            embedded, column, row = True, field, 0
            for group in range(table.num_row_groups):
                for offset in range(table.metadata.row_group(group).num_rows):
                    place = as_text(member(name, row))
                    refs.append(ImageRef(place, place, name, group, offset))
                    row += 1
    return TableImages(refs, column or "") if embedded else FileImages(refs)


def image_column(name: str) -> str | None:
    """Return the only column of a Parquet file that can hold encoded images; ``None`` if there are none or several."""
    import pyarrow.parquet as pq

    with _told(name, "Parquet"), open_file(name) as opened:
        columns = [field.name for field in pq.read_schema(opened) if _is_embedded(field.type)]
    return columns[0] if len(columns) == 1 else None


def _is_embedded(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def members(archive: str) -> Iterator[ImageRef]:
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
            if name in content and suffix_of(entry.name) in IMAGES and not hidden:
                place = as_text(member(archive, entry.name))
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


def chosen(column: str | None, columns: Sequence[str], where: str) -> str:
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
