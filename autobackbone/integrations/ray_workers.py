"""How many workers a Ray cluster has a place for, and what each of them has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group

from autobackbone.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_THREADS = 8  # of a worker: Python's global lock slows down more of them
_USED = 0.85  # of the CPUs at least, if fewer and larger workers use fewer of them
_PATIENCE = 30.0  # seconds to wait for the place of the first worker


class Workers(NamedTuple):
    """The workers of a run, which are all alike.

    Attributes
    ----------
    number
        How many.
    cpus, gpus
        What each of them reserves.
    threads
        How many threads each of them uses.
    """

    number: int
    cpus: float
    gpus: int
    threads: int


def choose_workers(device: torch.device, parts: int) -> Workers:
    """Choose the workers, and see that there is a place for one.

    Nothing but the workers needs a CPU, so nothing that they wait for can starve. What other work on the cluster has
    taken is left to it.

    Parameters
    ----------
    device
        Of the backbone.
    parts
        How many there are: more workers would have nothing to do.

    Raises
    ------
    ConfigError
        If the cluster does not have such a device.
    UnsupportedError
        If there is no place for a worker.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not with_gpus):
        msg = (
            f"The backbone is on {device}, and the Ray cluster has no such device; move it to the CPU: backbone.cpu()."
        )
        raise ConfigError(msg)
    if with_gpus and (device.type == "cuda" or not torch.cuda.is_available()):
        gpus = sum(int(node["GPU"]) for node in with_gpus)
        threads = min(int(node.get("CPU", 0)) // int(node["GPU"]) for node in with_gpus)
        workers = Workers(min(gpus, parts), 0, 1, max(1, threads))
        if _has_place(workers):
            return workers
        msg = f"No GPU of the Ray cluster is free, of {gpus}; wait until other work on it has ended."
        raise UnsupportedError(msg)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if sum(cpus) and _has_place(workers := on_cpus(cpus, parts)):
        return workers
    free = ray.available_resources().get("CPU", 0)
    if free >= 1 and _has_place(workers := Workers(min(int(free), parts), 1, 0, 1)):
        return workers
    msg = (
        f"The Ray cluster has {sum(cpus)} CPUs, of which {free:g} are free, and a worker needs 1: wait until other "
        "work on it has ended, or give it more, as in ray.init(num_cpus=2)."
    )
    raise UnsupportedError(msg)


def on_cpus(cpus: Sequence[int], parts: int) -> Workers:
    """Divide the CPUs of nodes into equal workers, and leave one CPU free."""
    if sum(cpus) == 1:
        return Workers(1, 0.5, 0, 1)
    most = max(cpus)
    capacities = sorted(cpus, reverse=True)
    capacities[0] -= 1
    counts = {size: min(parts, sum(cpu // size for cpu in capacities)) for size in range(1, most + 1)}
    best = max(size * count for size, count in counts.items())
    good = [size for size, count in counts.items() if size * count >= _USED * best]
    size = max((size for size in good if size <= _MAX_THREADS), default=min(good))
    return Workers(counts[size], size, 0, size)


def _has_place(workers: Workers) -> bool:
    """Whether a worker can start now. Ray would wait without end, and without a word."""
    needs = {"CPU": workers.cpus, "GPU": workers.gpus}
    group = placement_group([{name: amount for name, amount in needs.items() if amount}])
    try:
        return bool(group.wait(_PATIENCE))
    finally:
        remove_placement_group(group)
