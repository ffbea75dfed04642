"""A parent of processes that extract features, and are killed: it imports everything once, and forks for each.

It reads a request a line, as JSON, and writes an answer a line:

folder, output
    What to extract, and where to.
kwargs
    Further arguments of extract_features.
after
    Seconds after which the process is killed.
at, late
    Number of the file operation at which the process kills itself: before it, or once it is done.
kill_when
    A file: the process is killed once it exists.
hold
    A file: it is made when the first part is complete, and the process goes on when it is gone.
env
    Variables of the environment.

The answer holds status (of the process: 0, -9, or 1), seconds, operations (how many there were, if it ended by itself),
and error (what was raised).
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import fsspec.implementations.local
import some_images
import torch

from autobackbone import extract_features
from autobackbone.extraction import run

_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


class Operations:
    """Counts what is done to files below a folder, and kills the process at one."""

    def __init__(self, folder, at, late):
        self.folder, self.at, self.late, self.count = folder, at, late, 0
        self.is_due = False
        sys.addaudithook(self.audit)
        fsync, write = os.fsync, fsspec.implementations.local.LocalFileOpener.write

        def counted_fsync(descriptor):
            self.next()
            fsync(descriptor)

        def counted_write(opener, data):
            self.next()
            return write(opener, data)

        os.fsync = counted_fsync
        fsspec.implementations.local.LocalFileOpener.write = counted_write

    def audit(self, event, args):
        if event in _EVENTS and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(self.folder):
            self.next()

    def next(self):
        if self.is_due:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        if self.count == self.at:
            if not self.late:
                os.kill(os.getpid(), signal.SIGKILL)
            self.is_due = True  # the operation is done by the time of the next one, but what follows it is not


def hold_at_the_first_part(path):
    write = run.write_part

    def held(*args):
        run.write_part = write
        Path(path).touch()
        while Path(path).exists():
            time.sleep(0.01)
        return write(*args)

    run.write_part = held


def child(request, answer):
    os.environ.update(request.get("env", {}))
    run._MAX_ROWS = request.get("rows", 3)
    operations = Operations(request["output"], request.get("at"), request.get("late", False))
    if "hold" in request:
        hold_at_the_first_part(request["hold"])
    try:
        extract_features(
            some_images.pooled(), request["folder"], request["output"], image_size=32, workers=2, batch_size=2,
            show_progress=False, **request.get("kwargs", {}),
        )  # fmt: skip
        status, error = 0, ""
    except Exception as err:  # noqa: BLE001 - the test judges
        status, error = 1, f"{type(err).__name__}: {err}"
    with open(answer, "w") as pipe:  # noqa: PTH123 - a descriptor
        json.dump({"operations": operations.count, "error": error}, pipe)
    os._exit(status)


def serve(request):
    readable, writable = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            child(request, writable)
        finally:
            os._exit(2)
    os.close(writable)
    if "kill_when" in request:
        while not Path(request["kill_when"]).exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
    if "after" in request:
        time.sleep(request["after"])
        os.kill(pid, signal.SIGKILL)  # ours until it is waited for, even if it has ended
    with open(readable) as pipe:  # noqa: PTH123
        said = pipe.read()
    _, code = os.waitpid(pid, 0)
    answer = {"status": os.waitstatus_to_exitcode(code), "seconds": time.monotonic() - start, "operations": 0}
    with contextlib.suppress(ValueError):
        answer |= json.loads(said)
    return answer


if __name__ == "__main__":
    torch.set_num_threads(1)
    some_images.pooled()
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)  # noqa: T201
