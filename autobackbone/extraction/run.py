"""A run: what is left to do in a folder, in which parts, and what was done."""

from __future__ import annotations

import math
import os
import secrets
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from autobackbone.errors import OutputError
from autobackbone.extraction.pipeline import Chunk, compute_parts
from autobackbone.extraction.sole_run import RunId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from autobackbone.extraction.images import ImageRef
    from autobackbone.extraction.lanes import Job
    from autobackbone.extraction.output import Output
    from autobackbone.extraction.parts import Failure, Layout, Part
    from autobackbone.extraction.recipe import Recipe

_PART_BYTES = 1 << 27  # of features in memory
_MAX_ROWS = 2048  # in a part: what is done again after a kill
_MIN_ROWS = 64
_PARTS = 16  # at least, unless they get smaller than this
_ROWS_OF_ANY_SIZE = 64


class PartDone(NamedTuple):
    """A part that was written.

    Attributes
    ----------
    extracted
        How many images of it have features.
    failures
        The others.
    """

    extracted: int
    failures: list[Failure]


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction did; under torchrun, what this process did of it.

    `listed` - `skipped` - `extracted` images failed in this run.

    Attributes
    ----------
    output
        The folder of the table.
    listed
        How many images there were, each counted once; under torchrun, in the share of this process.
    repeated
        How many more times images were listed.
    skipped
        How many of them were in the table, or among its errors, before.
    extracted
        How many were added to the table.
    failed
        How many have no features now, of this run and those before; ``errors.parquet`` says why.
    """

    output: str
    listed: int
    repeated: int
    skipped: int
    extracted: int
    failed: int


class Written:
    """What is in a folder already.

    Parameters
    ----------
    output
        The folder.
    recipe
        Of the features to add.

    Raises
    ------
    OutputError
        If the features in it are others.
    """

    def __init__(self, output: Output, recipe: Recipe) -> None:
        self.ids: set[str] = set()
        self._failures: dict[str, Failure] = {}
        for part in output.read_parts():
            difference = part.recipe.difference(recipe)
            if difference is not None:
                msg = f"The features in {output} are others: {difference}. Name another folder, or ask for the same."
                raise OutputError(msg)
            self.ids.update(part.ids)
            self.fail(part.failures)

    @property
    def failures(self) -> list[Failure]:
        """The images without features, sorted by id."""
        return [failure for key, failure in sorted(self._failures.items()) if key not in self.ids]

    def fail(self, failures: Iterable[Failure]) -> None:
        """Add images without features."""
        self._failures.update((failure.id, failure) for failure in failures)

    def has(self, image_id: str, *, retry: bool) -> bool:
        """Whether an image is done: in the table, or, unless errors are tried again, among the errors."""
        return image_id in self.ids or (not retry and image_id in self._failures)


def chunks_of(
    refs: Sequence[ImageRef], written: Written, rows: int, rank: int, world: int, *, retry: bool
) -> tuple[int, list[Chunk]]:
    """Divide the images that are left into parts.

    Where parts begin depends on the list of images alone. So several processes agree on it, whichever parts are written
    while they start, and a part that is made twice is the same file.

    Parameters
    ----------
    refs
        All images.
    written
        What is done already.
    rows
        Images in a part.
    rank, world
        This process and the number of processes: it makes every `world`-th part.
    retry
        Try images again that had errors.

    Returns
    -------
    int
        How many images of this process are done already.
    list
        The parts of this process.
    """
    done = 0
    chunks = []
    for first in range(rank * rows, len(refs), world * rows):
        part = refs[first : first + rows]
        left = [ref for ref in part if not written.has(ref.id, retry=retry)]
        done += len(part) - len(left)
        if left:
            chunks.append(Chunk(first, left))
    return done, chunks


def rows_per_part(layout: Layout, count: int) -> int:
    """Return how many rows a part has.

    Parameters
    ----------
    layout
        Of the rows, which must fit into memory.
    count
        Images in all. Few images make small parts, so that several workers have some, and a kill costs little.
    """
    if layout.row_bytes is None:
        return _ROWS_OF_ANY_SIZE
    most = max(_MIN_ROWS, min(_MAX_ROWS, math.ceil(count / _PARTS)))
    return max(1, min(most, _MAX_ROWS, _PART_BYTES // max(1, layout.row_bytes)))


def run_here() -> tuple[RunId, int]:
    """Return the run of this process and the number of its processes: those of torchrun, or this one alone."""
    world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if world == 1:
        return RunId(secrets.token_hex(6), 0), 1
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")
    job = sha256(" ".join(os.environ.get(name, "") for name in names).encode()).hexdigest()[:12]
    return RunId(job, int(os.environ["RANK"])), world


def run_locally(
    job: Job, output: Output, chunks: Sequence[Chunk], on_images: Callable[[int], None]
) -> Iterator[PartDone]:
    """Compute and write parts; yield each when it is written. The next ones are computed while it is.

    Raises
    ------
    InputError
        If the images are out of reach; if the job is strict, also if one of them has no features.
    OutputError
        If a part cannot be written.
    """
    with ThreadPoolExecutor(1, "write") as writer:
        waiting: deque[Future[PartDone]] = deque()
        for part in compute_parts(job, chunks, on_images):
            if waiting:
                yield waiting.popleft().result()
            waiting.append(writer.submit(write_part, output, part))
        while waiting:
            yield waiting.popleft().result()


def write_part(output: Output, part: Part) -> PartDone:
    """Write a part, and say what is in it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    output.write_part(part.name, part.table())
    return PartDone(part.extracted, part.failed)
