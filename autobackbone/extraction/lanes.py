"""Lanes: threads that each take batches of images through decoding, the backbone and the reductions.

On CPUs, the backbone uses one thread in each lane: no core waits for another, and nothing is copied between processes.
On other devices, a pool of threads decodes the images, and there are two lanes, one of which prepares a batch while the
other waits for the device. Decoding, resizing and the backbone run outside Python's global lock.

Each lane has a copy of the backbone that shares its weights.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from autobackbone.errors import InputError
from autobackbone.extraction.columns import reduce_outputs
from autobackbone.extraction.decoding import UnreadableError
from autobackbone.unwrapping import unwrap
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autobackbone.extraction.columns import Column
    from autobackbone.extraction.decoding import Opened
    from autobackbone.extraction.images import Images
    from autobackbone.extraction.parts import Layout, Part
    from autobackbone.extraction.preparation import Preparation, Prepared

_log = logging.getLogger("autobackbone")
_BETWEEN_RETURNS = 0.5  # seconds
_BATCH = {"cpu": 8, "other": 64}
_DEVICE_LANES = 2


class Waiting(NamedTuple):
    """An image whose header was read."""

    part: Part
    position: int
    opened: Opened | Prepared


@dataclass(frozen=True)
class Job:
    """What is computed of images.

    Attributes
    ----------
    backbone
        Of either kind, in evaluation mode, on its device.
    images
        How they are read.
    preparation
        How they become the input of the backbone.
    columns
        What is kept.
    layout
        The columns in Arrow's terms.
    batch_size
        Images at once; ``None`` for 8 per thread on CPUs, and 64 on other devices.
    workers
        Threads that decode; ``None`` for as many as torch uses on CPUs, or as there are cores.
    strict
        Stop at the first image without features.
    """

    backbone: nn.Module
    images: Images
    preparation: Preparation
    columns: tuple[Column, ...]
    layout: Layout
    batch_size: int | None = None
    workers: int | None = None
    strict: bool = False

    def fail(self, part: Part, position: int, reason: str) -> None:
        """Say why an image has no features. Raise InputError if the job is strict."""
        if self.strict:
            ref = part.refs[position]
            msg = f"Image {shown(ref.path or ref.id)}: {reason}. Finished parts are kept; leave strict out to go on."
            raise InputError(msg)
        part.fail(position, reason)


class Result(NamedTuple):
    """The features of an image, or why it has none."""

    part: Part
    position: int
    prepared: Prepared | None
    values: dict[str, Tensor]
    reason: str = ""


class Lanes:
    """Threads that turn batches into features."""

    def __init__(self, job: Job) -> None:
        self._job = job
        like = next(job.backbone.parameters())
        self._device, self._dtype = like.device, like.dtype
        self._threads = torch.get_num_threads()
        on_cpu = self._device.type == "cpu"
        lanes = (job.workers or self._threads) if on_cpu else _DEVICE_LANES
        self._replicas: deque[nn.Module] = deque(_replicas(job.backbone, lanes))
        self.count = len(self._replicas)
        self.batch_size = job.batch_size or _BATCH["cpu" if on_cpu else "other"]
        self._shares = max(1, self._threads // self.count) if on_cpu else self._threads
        self._pool = ThreadPoolExecutor(self.count, "lane", initializer=self._start)
        self._decoders = None if on_cpu else ThreadPoolExecutor(job.workers or os.cpu_count() or 1, "decode")
        self._halving = threading.Lock()
        self._returned = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        if self._decoders is not None:
            self._decoders.shutdown()
        torch.set_num_threads(self._threads)  # what threads of the lanes set holds for new threads

    def cancel(self) -> None:
        """Give up the batches that have not been started."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)

    def submit(self, batch: list[Waiting]) -> Future[list[Result]]:
        """Compute the features of images that have the same size."""
        if self._decoders is None:
            return self._pool.submit(self._compute, [partial(self._finish, each) for each in batch])
        futures = [self._decoders.submit(self._finish, each) for each in batch]
        return self._pool.submit(self._compute, [future.result for future in futures])

    def _start(self) -> None:
        if self._shares != self._threads:
            torch.set_num_threads(self._shares)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # holds for this thread; compiled and custom kernels run there

    def _finish(self, each: Waiting) -> Result:
        try:
            return Result(each.part, each.position, self._job.preparation.finish(each.opened), {})
        except UnreadableError as err:
            return Result(each.part, each.position, None, {}, str(err))
        except Exception as err:  # noqa: BLE001 - of a user's transform
            return Result(each.part, each.position, None, {}, f"the transform failed ({type(err).__name__}: {err})")

    def _compute(self, finish: Sequence[Callable[[], Result]]) -> list[Result]:
        results = [each() for each in finish]
        replica = self._replicas.popleft()
        done = [result for result in results if result.prepared is None]
        try:
            with torch.inference_mode():
                for same in _of_one_size(results):
                    for start in range(0, len(same), size := self.batch_size):
                        done += self._features(replica, same[start : start + size])
        finally:
            self._replicas.append(replica)
        self._return_memory()
        return done

    def _return_memory(self) -> None:
        """Give free memory back to the system: glibc keeps what threads have freed, in more and more pieces."""
        now = time.monotonic()
        if now - self._returned >= _BETWEEN_RETURNS:
            self._returned = now
            with suppress(AttributeError, OSError, TypeError):  # other systems have no such function
                ctypes.CDLL(None).malloc_trim(0)

    def _features(self, backbone: nn.Module, batch: list[Result]) -> list[Result]:
        """Run the backbone. If the device has too little memory, the batch is halved."""
        try:
            values = reduce_outputs(self._job.columns, backbone(self._input(batch)), self._job.layout.dtype)
        except InputError as err:  # images of this size
            return [result._replace(prepared=None, reason=str(err)) for result in batch]
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        else:
            return [self._result(result, values, i) for i, result in enumerate(batch)]
        half = len(batch) // 2
        with self._halving:
            if half < self.batch_size:
                _log.warning(
                    "%s has too little memory for %d images at once: going on with %d", self._device, len(batch), half
                )
                self.batch_size = half
        torch.cuda.empty_cache()
        return self._features(backbone, batch[:half]) + self._features(backbone, batch[half:])

    def _input(self, batch: list[Result]) -> Tensor:
        """Return ``(B, C, H, W)``, normalized, on the device."""
        pixels = [result.prepared.pixels for result in batch if result.prepared is not None]
        x = torch.stack([each.permute(1, 2, 0) for each in pixels])  # channels last, as decoded
        is_pinned = self._device.type == "cuda"
        if is_pinned:
            x = x.pin_memory()
        # Other memory might be freed before it has been copied.
        x = x.to(self._device, non_blocking=is_pinned).permute(0, 3, 1, 2)
        if x.dtype == torch.uint8:
            x = self._job.preparation.spec.normalize(x.float() / 255)
        return x.to(self._dtype)

    def _result(self, result: Result, values: dict[str, Tensor], i: int) -> Result:
        row = {name: value[i] for name, value in values.items()}
        for name, value in row.items():
            shape = self._job.layout.shapes[name]
            if shape is not None and value.shape != shape:
                reason = f"its feature {name!r} has the shape {tuple(value.shape)}, that of others {shape}"
                return result._replace(prepared=None, reason=reason)
            if not bool(value.isfinite().all()):
                dtype = str(self._job.layout.dtype).removeprefix("torch.")
                return result._replace(prepared=None, reason=f"its feature {name!r} is not finite in {dtype}")
        return result._replace(values=row)


def _of_one_size(results: Sequence[Result]) -> list[list[Result]]:
    """Group the images that can be in one batch."""
    groups: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        if result.prepared is not None:
            groups[result.prepared.pixels.shape, result.prepared.pixels.dtype].append(result)
    return list(groups.values())


def _replicas(backbone: nn.Module, count: int) -> list[nn.Module]:
    """Return copies that share their weights: what a forward pass keeps in modules is then not shared by threads."""
    is_compiled = unwrap(backbone) is not backbone or getattr(backbone, "compiled", None) is not None
    if count == 1 or is_compiled:  # compiled modules are compiled once
        return [backbone]
    shared = {id(t): t for t in (*backbone.parameters(), *backbone.buffers())}
    try:
        return [backbone, *(copy.deepcopy(backbone, dict(shared)) for _ in range(count - 1))]
    except Exception:  # noqa: BLE001 - of a user's module
        return [backbone]
