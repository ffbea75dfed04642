"""The folder of a table of features, on this machine or remote: its parts, and one run in it at a time.

::

    OUT/
      features/part-0000000000-5d41402abc4b2a76.parquet ...   each written whole, or not at all
      errors.parquet                                          the images without features, gathered from the parts

A part holds its failures as well, in its metadata: so that images and failures are written in one step.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem

from autobackbone.errors import OutputError
from autobackbone.extraction.parts import ERRORS_SCHEMA, Failure, failures_in
from autobackbone.extraction.recipe import Recipe
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FEATURES = "features"
ERRORS = "errors.parquet"
_PARTIAL = ".partial-"  # prefix of files that are being written
_RUN = ".run-"  # prefix of the files that say which runs there are
_LOCK = ".lock"
_OWN = (FEATURES, ERRORS)
_BEAT = 2.0  # seconds between two signs of life of a run in a remote folder
_PATIENCE = 5.0  # seconds without one after which it is taken for dead
_ROW_GROUP = 1 << 16


class RunId(NamedTuple):
    """Which run a process belongs to.

    Attributes
    ----------
    job
        The same for all processes of a run.
    rank
        Of the process in it.
    """

    job: str
    rank: int


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
    """

    path: str
    recipe: Recipe
    ids: list[str]
    failures: list[Failure]


class Output:
    """The folder of a table.

    Parameters
    ----------
    address
        A path of this machine, or an address for fsspec. It can be pickled, so workers write to it themselves.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with _told(self):
            self.fs, self.root = fsspec.core.url_to_fs(address)
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
        with _told(self):
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
        with _told(self):
            self.fs.makedirs(self.path(FEATURES), exist_ok=True)

    def _clean(self) -> None:
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
        with _told(self):
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
        with _told(self):
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
                    raise _damaged(path, err) from err
            if recipe is None:
                msg = f"{shown(path)} is no part of a table of features; name another folder."
                raise OutputError(msg)
            yield PartFile(path, recipe, ids, failures)

    def read_part(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Read a part.

        Raises
        ------
        OutputError
            If it is damaged.
        """
        with self.open(path) as file:
            try:
                return pq.read_table(file, columns=columns, page_checksum_verification=True, use_threads=self.is_local)
            except (pa.ArrowException, OSError) as err:
                raise _damaged(path, err) from err

    def state(self, path: str) -> tuple[Any, ...]:
        """Return what changes when a part is written again."""
        with _told(self):
            info = self.fs.info(path)
        names = ("size", "ino", "mtime", "created", "LastModified", "last_modified", "updated", "ETag", "etag")
        return (path, *(str(info.get(name)) for name in names))

    def open(self, path: str) -> Any:
        """Open a file to read.

        Arrow's threads may still hold a file of Python when the interpreter ends, and then abort the process
        (https://github.com/apache/arrow/issues/34314). So local files are Arrow's own, and others are read without its
        threads.
        """
        with _told(self):
            return pa.OSFile(os.fsencode(path)) if self.is_local else self.fs.open(path, "rb")

    def write_part(self, name: str, table: pa.Table) -> None:
        """Write a part, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        features = [field.name for field in table.schema if pa.types.is_string(field.type)]

        def write(file: Any) -> None:
            pq.write_table(
                table,
                file,
                compression="zstd",
                compression_level=1,
                use_dictionary=features,
                row_group_size=_ROW_GROUP,
                write_page_checksum=True,
            )

        self._replace(self.path(FEATURES, name), write)

    def write_errors(self, failures: Sequence[Failure]) -> None:
        """Write the table of errors; remove it if there are none."""
        if not failures:
            with _told(self), suppress(FileNotFoundError):
                self.fs.rm(self.path(ERRORS))
            return
        columns = [[getattr(failure, name) for failure in failures] for name in Failure._fields]
        table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=ERRORS_SCHEMA)
        self._replace(self.path(ERRORS), lambda file: pq.write_table(table, file, compression="zstd"))

    def _replace(self, path: str, write: Callable[[Any], None]) -> None:
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/{_PARTIAL}{os.urandom(4).hex()}-{name}"
        with _told(self):
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
        with _told(self):
            lock = FileLock(Path(self.root) / _LOCK, timeout=30) if self.is_local else None
            if lock is not None:
                lock.acquire()
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    @contextmanager
    def sole_run(self, run: RunId) -> Iterator[None]:
        """Keep other runs out of the folder.

        Raises
        ------
        OutputError
            If another run is at work in it.
        """
        with self._local_run(run) if self.is_local else self._remote_run(run):
            yield

    @contextmanager
    def _local_run(self, run: RunId) -> Iterator[None]:
        """Hold a file lock, which ends with the process. Its name says whose it is."""
        root = Path(self.root)
        with self.lock(), _told(self):
            is_alone = True
            for path in root.glob(f"{_RUN}*"):
                other = FileLock(path, timeout=0)
                try:
                    other.acquire()
                except Timeout:
                    if path.name.split("-")[1] == run.job and path.name != _name(run):
                        is_alone = False  # another rank of this run
                        continue
                    raise self._in_use() from None
                path.unlink(missing_ok=True)  # of a process that is gone
                other.release()
            if is_alone:
                self._clean()
            own = FileLock(root / _name(run), timeout=0)
            own.acquire()
        try:
            yield
        finally:
            with suppress(OSError):
                (root / _name(run)).unlink(missing_ok=True)
                own.release()

    @contextmanager
    def _remote_run(self, run: RunId) -> Iterator[None]:
        """Give signs of life in a file, as there are no locks. A file without them is of a process that is gone."""
        own = self.path(_name(run))
        with _told(self):
            others = [path for path in self._runs() if path.rpartition("/")[2].split("-")[1] != run.job or path == own]
            before = {path: self._content(path) for path in others}
            if others:
                threading.Event().wait(_PATIENCE)
            for path in others:
                if self._content(path) not in (None, before[path]):
                    raise self._in_use()
                with suppress(FileNotFoundError):
                    self.fs.rm(path)
            if all(path == own for path in self._runs()):
                self._clean()
            self.fs.pipe_file(own, b"0")
            if any(path.rpartition("/")[2].split("-")[1] != run.job for path in self._runs()):
                self.fs.rm(own)  # of two that start together, none sees the other before
                raise self._in_use()
        ended = threading.Event()

        def beat() -> None:
            count = 0
            while not ended.wait(_BEAT):
                count += 1
                with suppress(Exception):  # the next one may succeed, and the run itself says what is wrong
                    self.fs.pipe_file(own, str(count).encode())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(Exception):
                self.fs.rm(own)

    def _runs(self) -> list[str]:
        self.fs.invalidate_cache()
        return [path for path in self.fs.ls(self.root, detail=False) if path.rpartition("/")[2].startswith(_RUN)]

    def _content(self, path: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(path))
        except FileNotFoundError:
            return None

    def _in_use(self) -> OutputError:
        return OutputError(f"Another run is at work in {self}; wait until it has ended, or name another folder.")


def _damaged(path: str, err: Exception) -> OutputError:
    return OutputError(f"{shown(path)} is damaged ({err}); remove it, and the same run makes it again.")


def _name(run: RunId) -> str:
    return f"{_RUN}{run.job}-{run.rank}"


@contextmanager
def _told(output: Output) -> Iterator[None]:
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
