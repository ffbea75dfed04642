"""How far an extraction is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger("autobackbone")
_EVERY = 30.0  # seconds between two lines


@contextmanager
def progress(total: int, done: int, *, show: bool | None) -> Iterator[Callable[[int], None]]:
    """Show progress.

    Parameters
    ----------
    total
        Images in all.
    done
        Images done before.
    show
        Whether to show a bar; ``None`` for one on a terminal, and lines in the log elsewhere.

    Yields
    ------
    Callable
        Called with the number of images done since the last call.
    """
    if show is None:
        show = sys.stderr is not None and sys.stderr.isatty()
    if show:
        with _bar(total, done) as advance:
            yield advance
    else:
        yield _Lines(total, done)


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    columns = (TextColumn("extracting"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda count: bar.advance(task, count)


class _Lines:
    """A line in the log every half minute."""

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._done = self._before = done
        self._start = self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < _EVERY:
            return
        self._last = now
        rate = (self._done - self._before) / (now - self._start)
        left = (self._total - self._done) / rate if rate else 0
        _log.info("%d of %d images, %.1f images/s, %d s left", self._done, self._total, rate, left)
