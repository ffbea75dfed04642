"""Download a file from the web: resume after a broken connection, give up when nothing new arrives.

All talk to a server runs in a separate thread, and only the calling thread writes the file. The calling thread measures
time: when the other thread returns nothing new for `PATIENCE` seconds, it is abandoned. It does not matter whether that
thread waits for name resolution, a first line, endless header lines, or a server that asks to come back later.
"""

import contextvars
import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.utils.tqdm import tqdm

from autobackbone.addresses import redacted

PATIENCE = 15.0  # seconds without anything new
# Seconds before each further attempt while nothing new arrives. If no download has begun, only the first is made.
_PAUSES = (0.0, 0.5, 1.0, 2.0)
_RESTARTS = 2  # restarts from the beginning, for servers that cannot resume
_ANSWER = 10.0  # seconds to wait for a connection, and for each part of an answer
_T = TypeVar("_T")
# The HTTP library of huggingface_hub: httpx in its 1.x, httpx2 in its 2.x.
_HTTP_ERROR: type[Exception] = next(e for e in errors.HfHubHTTPError.__mro__[1:] if e.__name__ == "HTTPError")
httpx: Any = sys.modules[_HTTP_ERROR.__module__.partition(".")[0]]


def answer_timeout() -> float:
    """Return the seconds to wait for each part of an answer. This timeout also ends abandoned threads."""
    return min(_ANSWER, PATIENCE)


class Patience:
    """A time limit of `PATIENCE` seconds, renewed whenever something new arrives."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Restart the time limit, because something new has arrived."""
        self._end = time.monotonic() + PATIENCE

    @property
    def remaining(self) -> float:
        """Seconds until the time limit."""
        return self._end - time.monotonic()

    def pause(self, seconds: float, reason: Exception) -> None:
        """Wait, or raise `reason` if the time limit would pass."""
        if seconds >= self.remaining:
            raise reason
        time.sleep(seconds)

    def call(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T:
        """Call a function, in a separate thread with the time limit, and return its result."""

        def once() -> _T:
            with closing(self.each(lambda: iter([function(*args, **kwargs)]))) as results:
                return next(results)

        try:
            return once()
        except (httpx.RemoteProtocolError, httpx.ReadError):  # a connection that was kept open has been closed
            return once()

    def each(self, items: Callable[[], Iterator[_T]]) -> Generator[_T, None, None]:
        """Create an iterator and run it in a separate thread; yield its items.

        Raises
        ------
        TimeoutError
            If the next item takes too long. The thread ends when that item arrives, and drops it.
        """
        worker = _Worker(items)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(worker.run,), name="autobackbone-transfer", daemon=True).start()
        try:
            while True:
                try:
                    kind, item = worker.results.get(timeout=max(self.remaining, 0.01))
                except queue.Empty:
                    msg = f"timed out: nothing new arrived for {PATIENCE:g} s"
                    raise TimeoutError(msg) from None
                if kind == "end":
                    return
                if kind == "error":
                    raise item
                yield item
        finally:
            worker.is_abandoned.set()


class _Worker:
    """The content of a thread: an iterator that hands over its items until it is abandoned."""

    def __init__(self, items: Callable[[], Iterator[Any]]) -> None:
        self.items = items
        self.results: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=16)
        self.is_abandoned = threading.Event()

    def run(self) -> None:
        try:
            for item in self.items():
                if not self._offer("item", item):
                    return
        except BaseException as err:  # noqa: BLE001 - the waiting thread raises it
            self._offer("error", err)
        else:
            self._offer("end", None)

    def _offer(self, kind: str, item: Any) -> bool:
        while not self.is_abandoned.is_set():
            try:
                self.results.put((kind, item), timeout=0.5)
            except queue.Full:
                continue
            return True
        return False


def transfer(
    url: str,
    path: Path,
    patience: Patience,
    *,
    name: str,
    size: int | None = None,
    check: Callable[[Any], None],
    is_immutable: bool = False,
    **request: Any,
) -> None:
    """Download an address to a file.

    Parameters
    ----------
    url
        The address, without user name and password.
    path
        The file to write.
    patience
        Time limit, renewed with each new byte.
    name
        Label of the progress bar.
    size
        Size of the file in bytes; ``None`` for the size that the server reports.
    check
        Raises an error if a response is not valid.
    is_immutable
        The content never changes, so a download can always be resumed. Otherwise it is resumed only if the server sends
        an entity tag.
    request
        Headers and authentication.

    Raises
    ------
    httpx.HTTPError, OSError
        If the server is out of reach or cannot serve the file, or the file cannot be written.
    """
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None, name="huggingface_hub.http_get")
    with path.open("wb") as file, bar:
        download = _Download(file, bar, patience, size)
        while True:
            headers = dict(request.get("headers") or {}) | download.range(is_immutable=is_immutable)
            try:
                download.write(partial(_respond, url, check, **(request | {"headers": headers})))
            except httpx.HTTPError as err:
                if hasattr(err, "response"):  # the server has answered: a retry does not help
                    raise
                failure: Exception = err
            else:
                if download.end in (None, download.present):
                    return
                failure = ConnectionError(f"the server sent {download.present} of {download.end} bytes")
            if download.failures == (len(_PAUSES) if download.has_begun else 1):
                raise failure
            patience.pause(_PAUSES[download.failures], failure)
            download.failures += 1


@dataclass
class _Download:
    """A file that grows with each response.

    Attributes
    ----------
    size
        Size in bytes, if it is known beforehand.
    end
        Size in bytes: `size`, or else the size according to the last response.
    present
        Bytes in the file.
    failures
        Attempts since the last new byte.
    restarts
        How often it was restarted from the beginning.
    etag
        The entity tag with which a server confirms that the rest is of the same file.
    has_begun
        Whether there was ever an answer.
    """

    file: BinaryIO
    bar: Any
    patience: Patience
    size: int | None
    end: int | None = None
    present: int = 0
    failures: int = 0
    restarts: int = 0
    etag: str | None = None
    has_begun: bool = False

    def range(self, *, is_immutable: bool) -> dict[str, str]:
        """Return the headers that request the missing bytes; empty if the whole file is needed."""
        if self.present == 0 or not (is_immutable or self.etag):
            return {}
        headers = {"Range": f"bytes={self.present}-"}
        return headers if is_immutable or self.etag is None else headers | {"If-Range": self.etag}

    def write(self, respond: Callable[[], Iterator[Any]]) -> None:
        """Write the content of a response to the file."""
        with closing(self.patience.each(respond)) as parts:
            start, end, self.etag = next(parts)
            self.has_begun = True
            if start != self.present:
                self._restart(start)
            self.end = self.bar.total = end if self.size is None else self.size
            for chunk in parts:
                self.file.write(chunk)
                self.present += len(chunk)
                self.bar.update(len(chunk))
                self.patience.renew()
                self.failures = 0
                if self.end is not None and self.present > self.end:
                    msg = f"the server sent more than the {self.end} bytes of the file"
                    raise ConnectionError(msg)

    def _restart(self, start: int) -> None:
        self.restarts += 1
        if start != 0 or self.restarts > _RESTARTS:
            msg = "the server cut the download off again and again, and cannot go on in the middle"
            raise ConnectionError(msg)
        self.bar.update(-self.present)
        self.file.seek(0)
        self.file.truncate()
        self.present = 0


def _respond(url: str, check: Callable[[Any], None], **request: Any) -> Iterator[Any]:
    """Yield first the offset of a response in the file, the size of the file and its entity tag; then the bytes."""
    session: Any = huggingface_hub.get_session()
    stream = session.stream("GET", url, timeout=answer_timeout(), follow_redirects=True, **request)
    with _addresses_hidden(), stream as response:  # in this thread, which logs even after it is abandoned
        if response.status_code == 416 and "Range" in request["headers"]:  # the file is shorter than before
            yield 0, None, None
            msg = "the file has become shorter"
            raise httpx.RemoteProtocolError(msg)
        check(response)
        start = 0
        if response.status_code == 206:
            match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(match[1]) if match else -1
        length = response.headers.get("Content-Length", "")
        is_plain = length.isdecimal() and response.headers.get("Content-Encoding", "identity") == "identity"
        tag = response.headers.get("ETag")
        yield start, start + int(length) if is_plain else None, tag if tag and tag.startswith('"') else None
        yield from response.iter_bytes()


@contextmanager
def _addresses_hidden() -> Iterator[None]:
    """Keep passwords and signatures in addresses out of the HTTP library's log."""

    def hide(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            url = httpx.URL
            record.args = tuple(redacted(str(arg)) if isinstance(arg, url) else arg for arg in record.args)
        return True

    logger = logging.getLogger(httpx.__name__)
    logger.addFilter(hide)
    try:
        yield
    finally:
        logger.removeFilter(hide)
