"""Memory that a forward pass takes at its peak, beside the weights and the images."""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# Freed tensors go back to the system at once, so that what is resident is what is in use.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(key: str = "VmRSS") -> float:
    """Return the resident memory of this process, or with ``"VmHWM"`` its peak so far, in MiB (Linux).

    The peak is not that of ``getrusage``, which a process takes over from the one that started it.
    """
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def resident_peak(call: Callable[[], object]) -> float:
    """Return by how much a call raises the resident memory of this process at its peak, in MiB (Linux).

    In a process that has its malloc as `in_new_process` sets it. With what libraries take beside tensors.
    """
    call()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is now what is resident
    before = resident()
    call()
    return resident("VmHWM") - before


def tensor_peak(call: Callable[[], object]) -> float:
    """Return the peak of the memory of tensors that a call allocates, in MiB: what torch's profiler saw on the CPU."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    peak = total = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak / 2**20


def cuda_peak(call: Callable[[], object]) -> float:
    """Return the peak of the memory of tensors that a call allocates on the GPU, in MiB."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def in_new_process(script: str, *arguments: str) -> list[float]:
    """Return the numbers that a script prints as JSON at its end, in a process in which freed memory is returned."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | _MALLOC)
    return [float(value) for value in json.loads(done.stdout.splitlines()[-1])]
