"""The files of a saved backbone, replaced atomically.

The weights file and ``config.json`` both contain an id, computed from the content of the config. They belong together
if the ids are equal. A save over an older one takes three steps:

1. Replace ``config.json`` by the old config with the new config in it, under ``next``.
2. Replace the weights file. This is the switch from old to new.
3. Replace ``config.json`` by the new config.

If the process is killed between two steps, the folder still holds weights and the config that they were saved with. It
loads as either the old or the new backbone. The id does not include the weights: with the same config, the weights in
the folder are always those of the last save.
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
_PARTIAL = ".saving-"  # prefix of the temporary folders in which files are written
_LOCK = "lock"  # file in such a folder, locked while the folder is in use


def write(folder: Path, values: Mapping[str, Any], state: Mapping[str, Tensor], card: str) -> None:
    """Write a backbone to a folder, completely or not at all.

    If the process is killed, the folder holds either the old or the new backbone. Leftovers of killed saves are
    removed.

    Parameters
    ----------
    folder
        The folder, created if needed. Other files in it are not changed.
    values
        The result of `describe`.
    state
        A state dict that `check_state` has accepted.
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
        with _workspace(folder) as workspace:
            save_file(_without_shared_memory(state), workspace / WEIGHTS_FILE, {"format": "pt", _ID: values["id"]})
            _sort_metadata(workspace / WEIGHTS_FILE)
            (workspace / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            (workspace / CARD_FILE).write_text(card, encoding="utf-8")
            _replace_files(folder, workspace, values)
    except (OSError, SafetensorError) as err:
        with suppress(OSError):
            for path in absent:  # deepest first
                path.rmdir()
        msg = f"The backbone could not be saved to {os.fspath(folder)!r}: {first_line(err)}."
        raise WeightsError(msg) from err


def description_for(values: Any, saved_id: str | None) -> dict[str, Any] | None:
    """Return the description that weights were saved with: the config itself, or the one under ``next``.

    Weights without an id were saved by other software, and belong to the config itself.
    """
    if saved_id is None:
        return values if isinstance(values, dict) else None
    candidates = (values, values.get("next")) if isinstance(values, dict) else ()
    return next((entry for entry in candidates if isinstance(entry, dict) and entry.get("id") == saved_id), None)


def id_of(weights: Path) -> str | None:
    """Return the id in the header of a weights file, if it has one."""
    try:
        with safe_open(weights, "pt") as file:
            return (file.metadata() or {}).get(_ID)
    except (OSError, SafetensorError):  # loading it raises a clear error
        return None


def _replace_files(folder: Path, workspace: Path, values: Mapping[str, Any]) -> None:
    """Replace the files of a folder, so that after each step it loads as the old backbone or as the new one."""
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        old_bytes = config.read_bytes()
        old = json.loads(old_bytes)
        old = description_for(old, id_of(weights)) or old
        is_other = isinstance(old, dict) and old.get("id") != values["id"]
    except (OSError, ValueError, RecursionError):  # nothing is saved there, or nothing that can be loaded
        is_other = False
    if is_other:
        (workspace / "before").write_bytes(old_bytes)
        (workspace / "both").write_text(json.dumps(old | {"next": values}, indent=2) + "\n", encoding="utf-8")
        (workspace / "both").replace(config)
    try:
        (workspace / WEIGHTS_FILE).replace(weights)
    except OSError:
        if is_other:
            (workspace / "before").replace(config)
        raise
    (workspace / CONFIG_FILE).replace(config)
    (workspace / CARD_FILE).replace(folder / CARD_FILE)


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Create a temporary folder inside another one, and remove it afterwards. Also remove those of killed processes.

    Each temporary folder is locked while it is in use. A lock ends with its process, so a folder that can be locked is
    a leftover.
    """
    for leftover in folder.glob(f"{_PARTIAL}*"):
        with suppress(Timeout, OSError, NotImplementedError), FileLock(leftover / _LOCK, blocking=False):
            shutil.rmtree(leftover)
    while True:
        workspace = Path(tempfile.mkdtemp(dir=folder, prefix=_PARTIAL))
        lock = FileLock(workspace / _LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:  # another process considers it a leftover
            continue
        except NotImplementedError:  # the file system has no locks, so nothing is removed there either
            pass
        break
    try:
        yield workspace
    finally:
        lock.release()
        shutil.rmtree(workspace, ignore_errors=True)


def _sort_metadata(weights: Path) -> None:
    """Sort the metadata of a weights file, so that its bytes are the same each time: safetensors does not sort it.

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


def _without_shared_memory(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors contiguous and without shared memory, as safetensors requires."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        contiguous = tensor.detach().contiguous()
        address = contiguous.untyped_storage().data_ptr()
        tensors[name] = contiguous.clone() if address in seen else contiguous
        seen.add(address)
    return tensors
