"""Extraction on a Ray cluster: each worker computes parts on its own and writes them itself.

A row of a Ray data set is a part: its images go in, and how many have features comes out. No image and no feature
passes through Ray. A part that is lost with its worker is computed again when the worker is back. The file of a part is
the same each time, so it does not matter if it is written twice.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import ray
import ray.data
import torch
from ray import cloudpickle

from autobackbone.errors import BackboneError, ConfigError, InputError, OutputError, UnsupportedError
from autobackbone.extraction.images import is_remote
from autobackbone.extraction.pipeline import Chunk, compute_parts
from autobackbone.extraction.run import PartDone, write_part
from autobackbone.integrations.packing import pack, unpack
from autobackbone.integrations.ray_workers import Workers, choose_workers
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from autobackbone.extraction.images import ImageRef
    from autobackbone.extraction.lanes import Job
    from autobackbone.extraction.output import Output

_TRIES = 5  # of a part whose worker died
_AT_ONCE = 2  # parts in a worker: one is computed while another is written
# Ray 2.58 and later deprecate the older way to say so.
_NAMES_CALLS = "max_concurrent_calls_per_actor" in signature(ray.data.ActorPoolStrategy).parameters
_LOOKED_AT = 100  # images, to find one that is a file of this machine


class _Answer(NamedTuple):
    """What a worker says of a part."""

    images: int
    done: PartDone


@dataclass(frozen=True)
class _Task:
    """What a worker is told once.

    Attributes
    ----------
    job
        Reference to the packed job in the object store.
    output
        Where parts are written.
    mark
        A file in the output.
    image
        A file of this machine with an image; ``None`` if images are elsewhere.
    workers
        What a worker has for itself.
    attempts
        The actor that counts how often each part was begun.
    """

    job: Any
    output: Output
    mark: str
    image: str | None
    workers: Workers
    attempts: Any


class _Attempts:
    """Counts how often each part was begun. Ray tries without end, even if an image kills every worker."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[int] = Counter()

    def begin(self, part: int) -> bool:
        """Count, and say whether the part may be begun."""
        self._counts[part] += 1
        return self._counts[part] <= self._most


def run_on_ray(
    job: Job, output: Output, chunks: Sequence[Chunk], on_images: Callable[[int], None]
) -> Iterator[PartDone]:
    """Compute and write parts on a Ray cluster; yield each when it is written.

    Connects to the cluster that ``RAY_ADDRESS`` names, or starts Ray on this machine, unless Ray is initialized. On a
    cluster of several machines, images and output must be in a folder that all of them share, or at addresses such
    as ``s3://``; a worker that does not see them stops the run.

    There is one worker per GPU, if the cluster has GPUs and the backbone is on one, or this machine has none. Otherwise
    each worker has several CPUs, and one CPU of the cluster is left free.

    Raises
    ------
    ConfigError
        If the backbone or the data set cannot be sent to other processes, or the backbone is on a device that the
        cluster does not have.
    InputError
        If the images are out of reach; if the job is strict, also if one of them has no features.
    OutputError
        If a part cannot be written.
    UnsupportedError
        If the cluster has no room for a worker, or workers die again and again.
    """
    packed = _packed(job)
    with _told(), _cluster(), _quiet(), output.mark() as mark:
        workers = choose_workers(next(job.backbone.parameters()).device, len(chunks))
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote(_TRIES)
        task = _Task(ray.put(packed), output.absolute(), mark, _local_image(chunks), workers, attempts)
        del packed
        for answer in _answers(task, chunks):
            if isinstance(answer, Exception):
                raise answer
            on_images(answer.images)
            yield answer.done


def _packed(job: Job) -> Any:
    """Pickle a job without the list of images, which goes to the workers part by part."""
    images = replace(cast("Any", job.images), refs=())
    try:
        return pack(replace(job, images=images, preparation=replace(job.preparation)))
    except Exception as err:
        faulty = "images" if _fails(images) else "transform" if _fails(job.preparation.custom) else "backbone"
        msg = (
            f"{faulty} cannot be sent to workers ({type(err).__name__}: {err}); make it of objects that can be "
            "pickled, or leave engine='ray' out."
        )
        raise ConfigError(msg) from err


def _fails(value: Any) -> bool:
    try:
        pack(value)
    except Exception:  # noqa: BLE001 - of a user's class
        return True
    return False


def _local_image(chunks: Iterable[Chunk]) -> str | None:
    """Return a file with an image on this machine, by which workers can tell whether they see the same files."""
    refs = next(iter(chunks)).refs[:_LOOKED_AT]
    return next((path for ref in refs if (path := _absolute(ref).file) and os.path.isfile(path)), None)  # noqa: PTH113


def _absolute(ref: ImageRef) -> ImageRef:
    """Workers may have another working directory."""
    return ref if not ref.file or is_remote(ref.file) else ref._replace(file=os.path.abspath(ref.file))  # noqa: PTH100


@contextmanager
def _cluster() -> Iterator[None]:
    """Start or join a cluster, and leave it. One that the user has initialized stays."""
    if ray.is_initialized():
        yield
        return
    level = logging.getLogger("ray").level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a tip of Ray's about GPUs
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as err:
        place = f"at RAY_ADDRESS={os.environ['RAY_ADDRESS']!r}" if "RAY_ADDRESS" in os.environ else "on this machine"
        msg = f"There is no Ray cluster {place}, and none can be started ({type(err).__name__}: {err})."
        raise UnsupportedError(msg) from err
    finally:
        logging.getLogger("ray").setLevel(level)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data from drawing bars and logging; what fails is raised."""
    context = ray.data.DataContext.get_current()
    names = ("enable_progress_bars", "print_on_execution_start")
    before = {name: getattr(context, name) for name in names}
    log = logging.getLogger("ray.data")
    level = log.level
    try:
        for name in names:
            setattr(context, name, False)
        log.setLevel(logging.CRITICAL)
        yield
    finally:
        for name in names:
            setattr(context, name, before[name])
        log.setLevel(level)


@contextmanager
def _told() -> Iterator[None]:
    """Turn errors of Ray itself into UnsupportedError."""
    try:
        yield
    except ray.exceptions.RayError as err:
        reason = str(err).strip().splitlines()[-1] if str(err).strip() else "no reason given"
        msg = (
            f"Ray gave up ({type(err).__name__}: {reason}). Finished parts are kept. If workers died, look for too "
            "little memory; every machine needs the same version of autobackbone. Then run the same again."
        )
        raise UnsupportedError(msg) from err


def _answers(task: _Task, chunks: Sequence[Chunk]) -> Iterator[_Answer | Exception]:
    """Have the parts computed; yield what workers say of them, in the order in which they are done."""
    workers = task.workers
    rows = [{"part": cloudpickle.dumps(Chunk(chunk.first, [_absolute(ref) for ref in chunk.refs]))} for chunk in chunks]
    # Rows are objects of this process, one by one, so no task reads them, and none is lost with a node.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    del rows
    pool = ray.data.ActorPoolStrategy(
        min_size=1,  # when a node is gone, and its workers with it, fewer finish the work
        max_size=workers.number,
        initial_size=workers.number,
        # A second part waits at the worker, unless that would leave another worker without any.
        max_tasks_in_flight_per_actor=2 if len(chunks) >= 4 * workers.number else 1,
        enable_true_multi_threading=True,
        **({"max_concurrent_calls_per_actor": _AT_ONCE} if _NAMES_CALLS else {}),
    )
    dataset = dataset.map_batches(
        _Worker,
        fn_constructor_kwargs={"task": task},
        batch_size=1,
        batch_format="numpy",
        compute=pool,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        **({} if _NAMES_CALLS else {"max_concurrency": _AT_ONCE}),
    )
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
        yield from map(cloudpickle.loads, batch["answer"])


class _Worker:
    """Computes parts in a process of a cluster."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._job: Job | None = None
        self._computing = threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Compute and write a part. Errors are answers: Ray would wrap them, log them, and try again."""
        chunk = cloudpickle.loads(batch["part"][0])
        answer: _Answer | Exception
        try:
            with self._computing:
                self._begin(chunk)
                [part] = compute_parts(self._loaded(), [chunk])
            answer = _Answer(len(chunk.refs), write_part(self._task.output, part))
        except torch.OutOfMemoryError as err:
            answer = ConfigError(
                f"A GPU of {platform.node()} has too little memory for one image at once ({err}). Take smaller images "
                "or a smaller backbone; finished parts are kept."
            )
        except BackboneError as err:
            answer = err
        except Exception as err:  # noqa: BLE001 - as it would be on this machine, the driver raises it
            answer = err
            answer.add_note(f"In a worker on {platform.node()}:\n{''.join(traceback.format_exception(err))}")
        return {"answer": [_pickled(answer)]}

    def _begin(self, chunk: Chunk) -> None:
        """Raise UnsupportedError if workers died too often with a part."""
        if not ray.get(self._task.attempts.begin.remote(chunk.first)):
            msg = (
                f"Worker after worker died with one of the {len(chunk.refs)} images from {shown(chunk.refs[0].id)} on; "
                "give workers more memory, or leave out the image that kills them. Finished parts are kept."
            )
            raise UnsupportedError(msg)

    def _loaded(self) -> Job:
        """Return the job, with the backbone on the device of this worker."""
        workers = self._task.workers
        torch.set_num_threads(workers.threads)  # holds for this thread of the worker
        if self._job is None:
            self._check_places()
            if workers.gpus and not torch.cuda.is_available():
                msg = (
                    f"torch finds no GPU on {platform.node()}, and Ray does; install torch with CUDA on every machine."
                )
                raise UnsupportedError(msg)
            job: Job = unpack(ray.get(self._task.job))
            backbone = job.backbone.to("cuda") if workers.gpus else job.backbone
            self._job = replace(job, backbone=backbone, workers=job.workers or workers.threads)
        return self._job

    def _check_places(self) -> None:
        """Raise an error if this machine does not see the files of the one that started the run."""
        task, node = self._task, platform.node()
        if not task.output.fs.exists(task.mark):
            msg = (
                f"The machine {node} does not see the folder {task.output} of the machine that started the run; the "
                "output must be in a folder that all machines of the cluster share, or at an address such as s3://..."
            )
            raise OutputError(msg)
        if task.image is not None and not os.path.isfile(task.image):  # noqa: PTH113
            msg = (
                f"The machine {node} has no file {shown(task.image)}, which the machine that started the run has; "
                "images must be in a folder that all machines of the cluster share, or at addresses such as s3://..."
            )
            raise InputError(msg)


def _pickled(answer: Any) -> bytes:
    with suppress(Exception):  # of a user's class
        content: bytes = cloudpickle.dumps(answer)
        return content
    return bytes(cloudpickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}")))
