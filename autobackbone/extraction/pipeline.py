"""Features of images on this machine: images are read ahead, put into batches, and given to lanes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from autobackbone.errors import InputError
from autobackbone.extraction.decoding import UnreadableError
from autobackbone.extraction.lanes import Lanes, Waiting
from autobackbone.extraction.parts import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from autobackbone.extraction.decoding import Opened
    from autobackbone.extraction.images import ImageRef
    from autobackbone.extraction.lanes import Job, Result
    from autobackbone.extraction.preparation import Prepared

_READERS = 8  # threads that wait for files
_AHEAD = 2  # batches per lane that are read ahead
_HELD = 4  # batches of images of many sizes that are held until there are more of one size


class Chunk(NamedTuple):
    """The images of a part.

    Attributes
    ----------
    first
        Position of the first image of the part in the list of all.
    refs
        The images that are left to do.
    """

    first: int
    refs: Sequence[ImageRef]


def compute_parts(
    job: Job, chunks: Iterable[Chunk], on_images: Callable[[int], None] = lambda _: None
) -> Iterator[Part]:
    """Compute the features of images, and yield them in complete parts.

    Parameters
    ----------
    job
        What is computed.
    chunks
        The images of each part.
    on_images
        Called with the number of images that were done since the last call.

    Raises
    ------
    InputError
        If the place where the images are is out of reach.
    """
    with Lanes(job) as lanes, ThreadPoolExecutor(_READERS, "read") as readers:
        try:
            yield from _run(job, lanes, readers, chunks, on_images)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            lanes.cancel()


def _run(
    job: Job, lanes: Lanes, readers: ThreadPoolExecutor, chunks: Iterable[Chunk], on_images: Callable[[int], None]
) -> Iterator[Part]:
    running: set[Future[list[Result]]] = set()
    parts: dict[str, Part] = {}  # begun
    buckets = _Buckets(lanes.batch_size)
    for part, position, opened in _opened(job, readers, chunks, ahead=_AHEAD * lanes.count * lanes.batch_size):
        parts[part.name] = part
        if isinstance(opened, UnreadableError):
            job.fail(part, position, str(opened))
            on_images(1)
        else:
            buckets.add(job.preparation.size_of(opened), Waiting(part, position, opened))
        batches = buckets.take(all_of_them=position == len(part.refs) - 1)
        running |= {lanes.submit(batch) for batch in batches}
        while len(running) > _AHEAD * lanes.count:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            _collect(job, done, on_images)
        yield from _complete(parts)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        _collect(job, done, on_images)
        yield from _complete(parts)


def _collect(job: Job, done: Iterable[Future[list[Result]]], on_images: Callable[[int], None]) -> None:
    """Put the features of batches into their parts."""
    for future in done:
        results = future.result()
        for result in results:
            if result.prepared is None:
                job.fail(result.part, result.position, result.reason)
            else:
                result.part.fill(result.position, result.prepared, result.values)
        on_images(len(results))


def _complete(parts: dict[str, Part]) -> Iterator[Part]:
    """Take out the parts that are complete."""
    for name in [name for name, part in parts.items() if part.is_complete]:
        yield parts.pop(name)


class _Buckets:
    """Images by the size of their input: those of one size are a batch."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._by_size: dict[Any, list[Waiting]] = {}

    def add(self, size: Any, image: Waiting) -> None:
        self._by_size.setdefault(size, []).append(image)

    def take(self, *, all_of_them: bool) -> list[list[Waiting]]:
        """Take out batches that are full; the largest, too, if many images wait; or all."""
        limit = 1 if all_of_them else self._batch_size
        sizes = [size for size, images in self._by_size.items() if len(images) >= limit]
        if not sizes and sum(map(len, self._by_size.values())) > _HELD * self._batch_size:
            sizes = [max(self._by_size, key=lambda size: len(self._by_size[size]))]
        return [self._by_size.pop(size) for size in sizes]


def _opened(
    job: Job, readers: ThreadPoolExecutor, chunks: Iterable[Chunk], ahead: int
) -> Iterator[tuple[Part, int, Opened | Prepared | UnreadableError]]:
    """Read images ahead, and yield them in order."""
    waiting: deque[tuple[Part, int, Future[Any]]] = deque()
    for first, refs in chunks:
        part = Part(refs, job.layout, first)
        for position, ref in enumerate(refs):
            waiting.append((part, position, readers.submit(_open, job, ref)))
            if len(waiting) > ahead:
                part_, position_, future = waiting.popleft()
                yield part_, position_, future.result()
    while waiting:
        part_, position_, future = waiting.popleft()
        yield part_, position_, future.result()


def _open(job: Job, ref: ImageRef) -> Opened | Prepared | UnreadableError:
    try:
        return job.preparation.open(job.images.read(ref))
    except UnreadableError as err:
        return err
    except FileNotFoundError:
        return UnreadableError("there is no such file")
    except OSError as err:
        return UnreadableError(f"it cannot be read ({err.strerror or err})")
    except InputError:
        raise
    except Exception as err:  # noqa: BLE001 - of a user's data set
        return UnreadableError(f"it cannot be read ({type(err).__name__}: {err})")
