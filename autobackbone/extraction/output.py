"""The folder of a table of features, on this machine or remote: its parts and its table of errors.

::

    OUT/
      features/part-0000000000-5d41402abc4b2a76.parquet ...   each written whole, or not at all
      errors.parquet                                          the images without features, gathered from the parts

A part holds its failures as well, in its metadata: so that images and failures are written in one step.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from autobackbone.errors import OutputError
from autobackbone.extraction.images import file_system_of
from autobackbone.extraction.parts import ABOUT, ERRORS_SCHEMA, Failure, failures_in
from autobackbone.extraction.recipe import Recipe
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FEATURES = "features"
ERRORS = "errors.parquet"
_PARTIAL = ".partial-"  # prefix of files that are being written
_LOCK = ".lock"
_OWN = (FEATURES, ERRORS)
_ROW_GROUP = 1 << 16


class PartFile(NamedTuple):
    """A part that was written.

    Attributes
    ----------
    path
        In the file system of the output.
    recipe
        How its features were made.
    ids
        Of the images in it.
    failures
        The images without features.
    schema
        Of its rows.
    """

    path: str
    recipe: Recipe
    ids: list[str]
    failures: list[Failure]
    schema: pa.Schema


class Output:
    """The folder of a table.

    Parameters
    ----------
    address
        A path of this machine, or an address for fsspec. It can be pickled, so workers write to it themselves.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with told(self):
            self.fs, self.root = file_system_of(address)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def __reduce__(self) -> Any:
        return (Output, (self.address,))

    def __str__(self) -> str:
        return shown(self.address)

    def path(self, *names: str) -> str:
        """Return the path of a file in the folder."""
        return "/".join((self.root.rstrip("/"), *names))

    def check(self) -> None:
        """Raise OutputError if the folder holds something else than features, or is a file."""
        with told(self):
            if not self.fs.exists(self.root):
                return
            if not self.fs.isdir(self.root):
                msg = f"The output {self} is a file; name a folder."
                raise OutputError(msg)
            for entry in self.fs.ls(self.root, detail=False):
                name = entry.rstrip("/").rpartition("/")[2]
                if name not in _OWN and not name.startswith("."):  # systems put hidden files everywhere
                    msg = f"The output {self} holds something else, such as {name!r}; name a new folder."
                    raise OutputError(msg)

    def prepare(self) -> None:
        """Make the folder."""
        with told(self):
            self.fs.makedirs(self.path(FEATURES), exist_ok=True)

    def clean(self) -> None:
        """Remove the files that killed runs left half written. Only where no other process is at work."""
        for path in (*self._listed(), *self.fs.ls(self.root, detail=False)):
            if path.rpartition("/")[2].startswith(_PARTIAL):
                with suppress(FileNotFoundError):
                    self.fs.rm(path)

    def absolute(self) -> Output:
        """Return the same folder for processes with another working directory."""
        return Output(self.root) if self.is_local else self

    @contextmanager
    def mark(self) -> Iterator[str]:
        """Write a file, by which other machines can tell whether they see this folder; yield its path."""
        path = self.path(FEATURES, f"{_PARTIAL}{os.urandom(4).hex()}-mark")
        with told(self):
            self.fs.pipe_file(path, b"mark")
        try:
            yield path
        finally:
            with suppress(Exception):  # the next run removes it
                self.fs.rm(path)

    def part_paths(self) -> list[str]:
        """Return the parts, in order."""
        return sorted(
            path for path in self._listed() if path.endswith(".parquet") and "/." not in path[len(self.root) :]
        )

    def _listed(self) -> list[str]:
        self.fs.invalidate_cache()
        with told(self):
            try:
                return list(self.fs.ls(self.path(FEATURES), detail=False))
            except FileNotFoundError:
                return []

    def read_parts(self) -> Iterator[PartFile]:
        """Read ids and failures of every part.

        Raises
        ------
        OutputError
            If a file is damaged, or was not written by this package.
        """
        for path in self.part_paths():
            with self.open(path) as file:
                try:
                    parquet = pq.ParquetFile(file, page_checksum_verification=True)
                    schema = parquet.schema_arrow
                    recipe = Recipe.from_metadata(schema.metadata)
                    ids = parquet.read(["id"], use_threads=self.is_local).column(0).to_pylist() if recipe else []
                    failures = failures_in(schema.metadata)
                except (pa.ArrowException, OSError, KeyError, ValueError) as err:
                    raise damaged(path, err) from err
            if recipe is None:
                msg = f"{shown(path)} is no part of a table of features; name another folder."
                raise OutputError(msg)
            if not {*ABOUT, *recipe.columns} <= {*schema.names}:
                raise damaged(path, f"its columns are {', '.join(schema.names)}")
            yield PartFile(path, recipe, ids, failures, schema)

    def read_part(self, part: PartFile, columns: list[str] | None = None) -> pa.Table:
        """Read rows of a part.

        Raises
        ------
        OutputError
            If it is damaged.
        """
        with self.open(part.path) as file:
            try:
                table = pq.read_table(file, columns=columns, page_checksum_verification=True, use_threads=self.is_local)
            except (pa.ArrowException, OSError) as err:
                raise damaged(part.path, err) from err
        if len(table) != len(part.ids):
            raise damaged(part.path, f"it has {len(table)} rows and {len(part.ids)} ids")
        return table

    def state(self, path: str) -> tuple[Any, ...]:
        """Return what changes when a part is written again."""
        with told(self):
            info = self.fs.info(path)
        names = ("size", "ino", "mtime", "created", "LastModified", "last_modified", "updated", "ETag", "etag")
        return (path, *(str(info.get(name)) for name in names))

    def open(self, path: str) -> Any:
        """Open a file to read.

        Arrow's threads may still hold a file of Python when the interpreter ends, and then abort the process
        (https://github.com/apache/arrow/issues/34314). So local files are Arrow's own, and others are read without its
        threads.
        """
        with told(self):
            return pa.OSFile(os.fsencode(path)) if self.is_local else self.fs.open(path, "rb")

    def write_part(self, name: str, table: pa.Table) -> None:
        """Write a part, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]

        def write(file: Any) -> None:
            pq.write_table(
                table,
                file,
                compression="zstd",
                compression_level=1,
                use_dictionary=texts,
                row_group_size=_ROW_GROUP,
                write_page_checksum=True,
            )

        self._replace(self.path(FEATURES, name), write)

    def write_errors(self, failures: Sequence[Failure]) -> None:
        """Write the table of errors; remove it if there are none."""
        if not failures:
            with told(self), suppress(FileNotFoundError):
                self.fs.rm(self.path(ERRORS))
            return
        columns = [[getattr(failure, name) for failure in failures] for name in Failure._fields]
        table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=ERRORS_SCHEMA)
        self._replace(self.path(ERRORS), lambda file: pq.write_table(table, file, compression="zstd"))

    def _replace(self, path: str, write: Callable[[Any], None]) -> None:
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/{_PARTIAL}{os.urandom(4).hex()}-{name}"
        with told(self):
            try:
                with self.fs.open(partial, "wb") as file:
                    write(file)
                    if self.is_local:
                        file.flush()
                        os.fsync(file.fileno())
                if self.is_local:
                    os.replace(partial, path)  # noqa: PTH105 - paths of the file system
                else:
                    self.fs.mv(partial, path)
            finally:
                with suppress(OSError):
                    if self.fs.exists(partial):
                        self.fs.rm(partial)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep out other processes of a run for a moment, if the folder is on this machine."""
        with told(self):
            lock = FileLock(Path(self.root) / _LOCK, timeout=30) if self.is_local else None
            if lock is not None:
                lock.acquire()
        try:
            yield
        finally:
            if lock is not None:
                lock.release()


def damaged(path: str, err: object) -> OutputError:
    """Return the error for a part that cannot be read."""
    return OutputError(f"{shown(path)} is damaged ({err}); remove it, and the same run makes it again.")


@contextmanager
def told(output: Output) -> Iterator[None]:
    """Turn errors of file systems into OutputError."""
    try:
        yield
    except OutputError:
        raise
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            msg = f"The disk of {output} is full; free space, and run the same again: finished parts are kept."
        elif err.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            msg = f"{output} cannot be written ({err.strerror}); allow it, or name another folder."
        else:
            msg = f"{output} cannot be used ({type(err).__name__}: {err})."
        raise OutputError(msg) from err
    except (ImportError, ValueError) as err:  # of fsspec, about the protocol
        msg = f"{output} is no address that can be opened ({err})."
        raise OutputError(msg) from err
