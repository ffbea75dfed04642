"""The files of a saved backbone, replaced as one.

The weights file and ``config.json`` each hold an id, made from what the config says, and belong together if the two
are equal. A save over another one replaces ``config.json`` by the old one with the new one in it, under ``next``; then
the weights file, which is the switch; then ``config.json`` again. Killed between any two of these, a folder holds
weights and the config that they were saved with: it loads as the old backbone or as the new. Weights need not be
hashed for that: of one config, any weights are those of the last save.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autobackbone.errors import WeightsError
from autobackbone.weights.hub import first_line

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
_ID = "autobackbone.id"  # in the header of the weights file
_PARTIAL = ".saving-"  # what the names of folders begin with in which files are made
_LOCK = "lock"  # in such a folder, held while it is used


def write(folder: Path, values: Mapping[str, Any], state: Mapping[str, Tensor], card: str) -> None:
    """Write a backbone to a folder: all of it, or nothing.

    Killed at any moment, the folder holds what it held or what it was to hold. What killed saves left is removed.

    Parameters
    ----------
    folder
        Made if need be. Other files in it stay as they are.
    values
        What `describe` says.
    state
        What `check_state` takes.
    card
        The model card.

    Raises
    ------
    WeightsError
        If a file cannot be written.
    """
    absent: list[Path] = []
    try:
        absent = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
            if (folder / name).is_dir():
                msg = f"{name} is a folder in it"
                raise IsADirectoryError(errno.EISDIR, msg)
        with _workspace(folder) as made:
            save_file(_apart(state), made / WEIGHTS_FILE, {"format": "pt", _ID: values["id"]})
            _sort_metadata(made / WEIGHTS_FILE)
            (made / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            (made / CARD_FILE).write_text(card, encoding="utf-8")
            _switch(folder, made, values)
    except (OSError, SafetensorError) as err:
        with suppress(OSError):
            for path in absent:  # the deepest first
                path.rmdir()
        msg = f"The backbone could not be saved to {os.fspath(folder)!r}: {first_line(err)}."
        raise WeightsError(msg) from err


def belonging(values: Any, saved_id: str | None) -> dict[str, Any] | None:
    """Return the description that weights were saved with: what a config says, or what it was to say next.

    Weights without an id were saved by something else, and are those of the config that is there.
    """
    if saved_id is None:
        return values if isinstance(values, dict) else None
    candidates = (values, values.get("next")) if isinstance(values, dict) else ()
    return next((found for found in candidates if isinstance(found, dict) and found.get("id") == saved_id), None)


def id_of(weights: Path) -> str | None:
    """Return the id in the header of a weights file, if it has one."""
    try:
        with safe_open(weights, "pt") as file:
            return (file.metadata() or {}).get(_ID)
    except (OSError, SafetensorError):  # whoever loads it will say what is wrong with it
        return None


def _switch(folder: Path, made: Path, values: Mapping[str, Any]) -> None:
    """Replace the files of a folder, so that after each step it loads as the old backbone or as the new one."""
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        before = config.read_bytes()
        old = json.loads(before)
        old = belonging(old, id_of(weights)) or old
        is_other = isinstance(old, dict) and old.get("id") != values["id"]
    except (OSError, ValueError, RecursionError):  # nothing was saved there, or nothing that could be loaded
        is_other = False
    if is_other:
        (made / "before").write_bytes(before)
        (made / "both").write_text(json.dumps(old | {"next": values}, indent=2) + "\n", encoding="utf-8")
        (made / "both").replace(config)
    try:
        (made / WEIGHTS_FILE).replace(weights)
    except OSError:
        if is_other:
            (made / "before").replace(config)
        raise
    (made / CONFIG_FILE).replace(config)
    (made / CARD_FILE).replace(folder / CARD_FILE)


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Make a folder within another one to make files in, and remove it; remove what killed processes left of theirs.

    Each is locked while it is used, which ends with the process: one that can be locked is nobody's.
    """
    for left in folder.glob(f"{_PARTIAL}*"):
        with suppress(Timeout, OSError, NotImplementedError), FileLock(left / _LOCK, blocking=False):
            shutil.rmtree(left)
    while True:
        made = Path(tempfile.mkdtemp(dir=folder, prefix=_PARTIAL))
        lock = FileLock(made / _LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:  # another process took it for one that was left
            continue
        except NotImplementedError:  # the file system has no locks, so nothing is removed there either
            pass
        break
    try:
        yield made
    finally:
        lock.release()
        shutil.rmtree(made, ignore_errors=True)


def _sort_metadata(weights: Path) -> None:
    """Give a weights file the same bytes each time: safetensors writes metadata in any order.

    The header is JSON after its length in eight bytes, padded with spaces (https://github.com/huggingface/safetensors).
    """
    with weights.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, which safetensors does not take."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        whole = tensor.detach().contiguous()
        address = whole.untyped_storage().data_ptr()
        apart[name] = whole.clone() if address in seen else whole
        seen.add(address)
    return apart
