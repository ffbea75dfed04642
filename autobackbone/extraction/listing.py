"""From what a user names to a list of images: a folder, a pattern, a list, a table, archives, a data set."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from glob import has_magic
from typing import TYPE_CHECKING, Any, cast

from autobackbone.errors import ConfigError, InputError
from autobackbone.extraction.files import IMAGES, SEPARATORS, Files, as_text, suffix_of
from autobackbone.extraction.images import DatasetImages, FileImages, ImageRef, Images
from autobackbone.extraction.tables import chosen, content_of, csv_values, from_parquet, members, refs_in
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_READ = tuple(".7z .arrow .bz2 .gz .h5 .json .jsonl .npy .npz .rar .tgz .xls .xlsx .xz .zip .zst".split())  # noqa: SIM905
_READ = ": .txt, .csv, .tsv and .parquet files, and uncompressed .tar files are."


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
    elif hasattr(images, "columns") and hasattr(images, "to_dict"):  # a frame of pandas or polars
        cells = list(images[chosen(column, list(images.columns), "the table")])
        found = _from_items([cell for cell in cells if not _is_empty(cell)], None)
    elif isinstance(images, list | tuple) or hasattr(images, "to_numpy"):  # or a column of theirs
        found = _from_items(images if isinstance(images, list | tuple) else list(images), column)
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


def _is_empty(cell: Any) -> bool:
    """Whether a cell of a frame holds nothing: ``None``, or pandas' NaN and NA."""
    return cell is None or cell == "" or (isinstance(cell, float) and cell != cell) or type(cell).__name__ == "NAType"  # noqa: PLR0124


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
        chosen(column, list(first), "the data set")
    elif column is not None and first is not None and not isinstance(first, Mapping):
        msg = f"column={shown(column)}: items of the data set are {type(first).__name__}s without names; leave it out."
        raise ConfigError(msg)
    if isinstance(first, Mapping) and column is None and "bytes" not in first:
        column = next(iter(first))  # the only one
    return DatasetImages(refs, images, column)


def _from_address(address: str, column: str | None) -> Images:
    """List what a path or an address names."""
    files = Files(address)
    suffixes = {suffix_of(name) for name in files.names} if not files.is_folder else set()
    if suffixes == {".parquet"}:
        return from_parquet(files.names, column, files.base)
    if column is not None and not suffixes & set(SEPARATORS):
        msg = f"column={shown(column)}: {shown(address)} is no table; leave it out, or name a .csv or .parquet file."
        raise ConfigError(msg)
    if len(files.names) == 1 and not files.is_folder:
        name = files.names[0]
        if suffix_of(name) in SEPARATORS:
            return FileImages(refs_in(csv_values(name, column), name))
        if suffix_of(name) == ".txt":
            lines = content_of(name).decode("utf-8-sig", "surrogateescape").split("\n")
            return FileImages(refs_in([line.strip() for line in lines if line.strip()], name))
        if suffix_of(name) in _NOT_READ:
            msg = f"{shown(address)} is neither an image nor a list that is read here; unpack or convert it{_READ}"
            raise ConfigError(msg)
    if suffixes == {".tar"}:
        return FileImages([ref for name in files.names for ref in members(name)])
    named = not files.is_folder and (not has_magic(address) or suffix_of(address))
    names = files.names if named else [name for name in files.names if suffix_of(name) in IMAGES]
    return FileImages([ImageRef(as_text(files.id_of(name)), as_text(name), name) for name in names])


def _from_hugging_face(images: Any, column: str | None) -> Images:
    import datasets

    if not hasattr(images, "__getitem__") or not hasattr(images, "__len__"):
        msg = "A data set that streams cannot be continued after a stop; give a map-style one, or its files."
        raise ConfigError(msg)
    kinds = (name for name, kind in images.features.items() if isinstance(kind, datasets.Image))
    name = chosen(column or next(kinds, None), images.column_names, "the data set")
    if isinstance(images.features[name], datasets.Image):
        images = images.cast_column(name, datasets.Image(decode=False))
    return DatasetImages(_numbered(len(images)), images.with_format(None), name)


def _from_items(items: Sequence[Any], column: str | None) -> Images:
    """List a list of paths, of tables, of archives, or of images."""
    if all(isinstance(item, str | os.PathLike) for item in items):
        paths = [os.fspath(item) for item in items]
        suffixes = set(map(suffix_of, paths))
        if suffixes == {".parquet"}:
            return from_parquet(paths, column, paths[0])
        if suffixes == {".tar"} and column is None:
            return FileImages([ref for path in paths for ref in members(path)])
    if column is not None:
        msg = f"column={shown(column)}: a list has no columns; leave it out."
        raise ConfigError(msg)
    if all(isinstance(item, str | os.PathLike) for item in items):
        return FileImages([ImageRef(as_text(path), as_text(path), path) for path in paths])
    return DatasetImages(_numbered(len(items)), items)


def _numbered(count: int) -> list[ImageRef]:
    return [ImageRef(str(i), row=i) for i in range(count)]
