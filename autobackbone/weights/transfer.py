"""Bytes from the web into a file: going on where a connection breaks off, given up where nothing new arrives.

Time is measured from outside. What talks to a server runs in a thread of its own, which has no file to write to, and is
left alone when nothing new has come of it for `PATIENCE` seconds, whatever it waits for: an address, a first line, the
next of endless header lines, or a server that asks to come back later. The calling thread alone writes.
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
# Seconds before each further attempt as long as nothing new arrives; only the first is made where nothing ever began.
_PAUSES = (0.0, 0.5, 1.0, 2.0)
_RESTARTS = 2  # of a file from its beginning, by servers that cannot go on in the middle
_ANSWER = 10.0  # seconds to wait for a connection, and for each part of an answer
_T = TypeVar("_T")
# The HTTP library that huggingface_hub is built on: its 1.x on httpx, its 2.x on httpx2.
_HTTP_ERROR: type[Exception] = next(e for e in errors.HfHubHTTPError.__mro__[1:] if e.__name__ == "HTTPError")
httpx: Any = sys.modules[_HTTP_ERROR.__module__.partition(".")[0]]


def answer_timeout() -> float:
    """Return the seconds to wait for each part of an answer, which is what ends a thread that was left alone."""
    return min(_ANSWER, PATIENCE)


class Patience:
    """How long is still waited for something new: `PATIENCE` seconds since the last."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Something new has arrived."""
        self._end = time.monotonic() + PATIENCE

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def pause(self, seconds: float, reason: Exception) -> None:
        """Wait, or raise `reason` if that would take too long."""
        if seconds >= self.left:
            raise reason
        time.sleep(seconds)

    def call(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T:
        """Return what a function returns, unless it takes too long."""

        def once() -> _T:
            with closing(self.each(lambda: iter([function(*args, **kwargs)]))) as results:
                return next(results)

        try:
            return once()
        except (httpx.RemoteProtocolError, httpx.ReadError):  # of a connection that was kept open, and has been closed
            return once()

    def each(self, items: Callable[[], Iterator[_T]]) -> Generator[_T, None, None]:
        """Yield what an iterator yields, made and run in a thread of its own.

        Raises
        ------
        TimeoutError
            If the next item takes too long; the thread ends with the item that it waits for, which is dropped.
        """
        worker = _Worker(items)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(worker.run,), name="autobackbone-transfer", daemon=True).start()
        try:
            while True:
                try:
                    kind, item = worker.results.get(timeout=max(self.left, 0.01))
                except queue.Empty:
                    msg = f"timed out: nothing new arrived for {PATIENCE:g} s"
                    raise TimeoutError(msg) from None
                if kind == "end":
                    return
                if kind == "error":
                    raise item
                yield item
        finally:
            worker.is_left.set()


class _Worker:
    """What runs in a thread: an iterator, whose items are handed over until nobody takes them."""

    def __init__(self, items: Callable[[], Iterator[Any]]) -> None:
        self.items = items
        self.results: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=16)
        self.is_left = threading.Event()

    def run(self) -> None:
        try:
            for item in self.items():
                if not self._offer("item", item):
                    return
        except BaseException as err:  # noqa: BLE001 - it is raised where it is waited for
            self._offer("error", err)
        else:
            self._offer("end", None)

    def _offer(self, kind: str, item: Any) -> bool:
        while not self.is_left.is_set():
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
    """Write what an address holds to a file.

    Parameters
    ----------
    url
        The address, without a user's name and password.
    path
        The file to write.
    patience
        Renewed with each new byte.
    name
        Of the progress bar.
    size
        In bytes; if ``None``, what the server says.
    check
        Raises what is wrong with a response.
    is_immutable
        The address always holds the same, so that two responses may be put together. Else that is done only where the
        server vouches for it with an entity tag.
    request
        Headers and authentication.

    Raises
    ------
    httpx.HTTPError, OSError
        If the server is out of reach or cannot serve the file, or the file cannot be written.
    """
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None, name="huggingface_hub.http_get")
    with path.open("wb") as file, bar, _addresses_hidden():
        download = _Download(file, bar, patience, size)
        while True:
            headers = dict(request.get("headers") or {}) | download.range(is_immutable=is_immutable)
            try:
                download.take(partial(_respond, url, check, **(request | {"headers": headers})))
            except httpx.HTTPError as err:
                if hasattr(err, "response"):  # an answer, and a clear one
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
    """A file that grows by one response after another.

    Attributes
    ----------
    size
        In bytes, where it is known beforehand; ``end`` is what the last response makes of it.
    present
        Bytes in the file.
    failures
        Attempts since the last new byte.
    restarts
        How often it had to begin anew.
    etag
        The entity tag by which a server vouches for the rest being of the same file.
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
        """Return the headers that ask for what is missing, or none where it has to be the whole file."""
        if self.present == 0 or not (is_immutable or self.etag):
            return {}
        headers = {"Range": f"bytes={self.present}-"}
        return headers if is_immutable or self.etag is None else headers | {"If-Range": self.etag}

    def take(self, respond: Callable[[], Iterator[Any]]) -> None:
        """Write what a response brings."""
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
    """Yield where in the file a response begins, the size of the file, and its entity tag; then its bytes."""
    session: Any = huggingface_hub.get_session()
    with session.stream("GET", url, timeout=answer_timeout(), follow_redirects=True, **request) as response:
        if response.status_code == 416 and "Range" in request["headers"]:  # there is less than there was
            yield 0, None, None
            msg = "the file has become shorter"
            raise httpx.RemoteProtocolError(msg)
        check(response)
        start = 0
        if response.status_code == 206:
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(found[1]) if found else -1
        length = response.headers.get("Content-Length", "")
        is_plain = length.isdecimal() and response.headers.get("Content-Encoding", "identity") == "identity"
        tag = response.headers.get("ETag")
        yield start, start + int(length) if is_plain else None, tag if tag and tag.startswith('"') else None
        yield from response.iter_bytes()


@contextmanager
def _addresses_hidden() -> Iterator[None]:
    """Keep passwords and signatures of addresses out of the HTTP library's log while it is at work."""

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
