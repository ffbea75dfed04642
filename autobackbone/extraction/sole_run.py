"""One run at a time in the folder of a table; the processes of a run work together."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout

from autobackbone.errors import OutputError
from autobackbone.extraction.output import told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autobackbone.extraction.output import Output

_RUN = ".run-"  # prefix of the files that say which runs there are
_BEAT = 2.0  # seconds between two signs of life of a run in a remote folder
_PATIENCE = 5.0  # seconds without one after which it is taken for dead


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


@contextmanager
def sole_run(output: Output, run: RunId) -> Iterator[None]:
    """Keep other runs out of a folder.

    Parameters
    ----------
    output
        The folder, which exists.
    run
        The run of this process.

    Raises
    ------
    OutputError
        If another run is at work in it.
    """
    with _local_run(output, run) if output.is_local else _remote_run(output, run):
        yield


@contextmanager
def _local_run(output: Output, run: RunId) -> Iterator[None]:
    """Hold a file lock, which ends with the process. Its name says whose it is."""
    root = Path(output.root)
    with output.lock(), told(output):
        is_alone = True
        for path in root.glob(f"{_RUN}*"):
            other = FileLock(path, timeout=0)
            try:
                other.acquire()
            except Timeout:
                if path.name.split("-")[1] == run.job and path.name != _name(run):
                    is_alone = False  # another rank of this run
                    continue
                raise _in_use(output) from None
            path.unlink(missing_ok=True)  # of a process that is gone
            other.release()
        if is_alone:
            output.clean()
        own = FileLock(root / _name(run), timeout=0)
        own.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (root / _name(run)).unlink(missing_ok=True)
        own.release()


@contextmanager
def _remote_run(output: Output, run: RunId) -> Iterator[None]:
    """Give signs of life in a file, as there are no locks. A file without them is of a process that is gone."""
    own = output.path(_name(run))
    with told(output):
        others = [path for path in _runs(output) if path.rpartition("/")[2].split("-")[1] != run.job or path == own]
        before = {path: _content(output, path) for path in others}
        if others:
            threading.Event().wait(_PATIENCE)
        for path in others:
            if _content(output, path) not in (None, before[path]):
                raise _in_use(output)
            with suppress(FileNotFoundError):
                output.fs.rm(path)
        if all(path == own for path in _runs(output)):
            output.clean()
        output.fs.pipe_file(own, b"0")
        if any(path.rpartition("/")[2].split("-")[1] != run.job for path in _runs(output)):
            output.fs.rm(own)  # of two that start together, none sees the other before
            raise _in_use(output)
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(_BEAT):
            count += 1
            with suppress(Exception):  # the next one may succeed, and the run itself says what is wrong
                output.fs.pipe_file(own, str(count).encode())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):
            output.fs.rm(own)


def _runs(output: Output) -> list[str]:
    output.fs.invalidate_cache()
    return [path for path in output.fs.ls(output.root, detail=False) if path.rpartition("/")[2].startswith(_RUN)]


def _content(output: Output, path: str) -> bytes | None:
    try:
        return bytes(output.fs.cat_file(path))
    except FileNotFoundError:
        return None


def _in_use(output: Output) -> OutputError:
    return OutputError(f"Another run is at work in {output}; wait until it has ended, or name another folder.")


def _name(run: RunId) -> str:
    return f"{_RUN}{run.job}-{run.rank}"
