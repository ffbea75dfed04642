"""Checkpoint files: resolve what ``weights=`` names, download it, and read it without running code from it."""

import argparse
import collections
import json
import os
import pathlib
import pickletools
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autobackbone.errors import WeightsCorruptedError, WeightsError, WeightsNotFoundError
from autobackbone.names import REPO_RULES, is_address, repo_of, split_repo
from autobackbone.weights.cache import quarantine
from autobackbone.weights.hub import fetch, fetch_url, first_line

# Names of weights in folders and repositories, in order of preference. An index lists shards.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Types that training scripts save beside weights, and that load without running code.
_PLAIN_TYPES: list[Any] = [
    dict,
    list,
    set,
    argparse.Namespace,
    collections.defaultdict,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"},
    np.float64(0).__reduce__()[0],  # how NumPy pickles its scalars and arrays
    np.zeros(1).__reduce__()[0],
]

_LOCK = threading.Lock()


def resolve_files(origin: str, *, cache_dir: str | Path | None = None) -> list[Path]:
    """Return the local files that ``weights=`` names, downloaded if needed.

    Parameters
    ----------
    origin
        A file, a folder, ``hf-hub:owner/repo[@revision]``, or an ``https://`` address.
    cache_dir
        Cache folder to use instead of the Hub's default one.

    Raises
    ------
    WeightsNotFoundError
        If there is no such file, or the folder or repository holds no weights.
    WeightsError
        If the weights cannot be downloaded.
    """
    if origin == "":
        msg = "weights='' names nothing; give a path, 'hf-hub:owner/repo', or an https:// address."
        raise WeightsNotFoundError(msg)
    if is_address(origin):
        return [fetch_url(origin)]
    repo = repo_of(origin)
    if repo is not None:
        parts = split_repo(repo)
        if parts is None:
            msg = f"weights={origin!r} is no Hub repository; {REPO_RULES}"
            raise WeightsNotFoundError(msg)
        return fetch_weights(parts[0], revision=parts[1], cache_dir=cache_dir)
    path = Path(origin)
    try:
        if path.is_dir():
            return _in_folder(path)
        is_file = path.is_file()
    except OSError:  # a name that no file can have
        is_file = False
    if not is_file:
        msg = (
            f"weights={origin!r}: there is no such file or folder, from {str(Path.cwd())!r}; give a path, "
            "'hf-hub:owner/repo', or an https:// address."
        )
        raise WeightsNotFoundError(msg)
    return [path]


def fetch_weights(
    repo: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    name: str | None = None,
    remedy: str = "",
) -> list[Path]:
    """Return the local files of a repository's weights, including all shards; see `hub.fetch`.

    With a `name`, fetch the safetensors file of that name, or else the file itself.
    """
    remedy = (
        f"Else: 'hf download' fills the cache, weights= takes a path, pretrained=False needs none. {remedy}".strip()
    )
    names = WEIGHT_FILES if name is None else [Path(name).with_suffix(".safetensors").name, name]
    path = fetch(repo, list(dict.fromkeys(names)), revision=revision, cache_dir=cache_dir, remedy=remedy)
    if not path.name.endswith(".index.json"):
        return [path]
    commit = path.parent.name  # so that all shards are of one commit
    return [fetch(repo, [shard], revision=commit, cache_dir=cache_dir, remedy=remedy) for shard in _shards(path)]


def read_checkpoint(files: Sequence[Path], origin: str) -> Mapping[str, Any]:
    """Read the content of checkpoint files, on the CPU.

    Parameters
    ----------
    files
        One file that safetensors or ``torch.save`` wrote, or the shards of one state dict. A safetensors file is
        mapped into memory. Pickles are read with ``weights_only=True``, so they cannot run code.
    origin
        The value of ``weights=``, for messages.

    Raises
    ------
    WeightsCorruptedError
        If a file is damaged, or does not hold tensors by name.
    WeightsError
        If a file cannot be opened.
    """
    content: dict[str, Any] = {}
    for path in files:
        shard = _read(path, origin)
        if not isinstance(shard, Mapping):
            msg = (
                f"The weights file {origin!r} holds {type(shard).__name__} and no tensors by name; save a model's "
                f"state_dict().{quarantine(path)}"
            )
            raise WeightsCorruptedError(msg)
        twice = next((key for key in shard if key in content and not _is_same(shard[key], content[key])), None)
        if twice is not None:
            msg = f"Shards of {origin!r} hold two different values for {twice!r}; fetch or save them again."
            raise WeightsCorruptedError(msg)
        content |= shard
    return content


def _is_same(one: Any, other: Any) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)


def _read(path: Path, origin: str) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as err:
        msg = f"The weights file {origin!r} could not be read: {first_line(err)}."
        raise WeightsError(msg) from err
    try:
        # Parameters are made from these tensors, so they must be on the CPU and trainable in any mode of the caller.
        with torch.inference_mode(mode=False), torch.device("cpu"):
            if head[8:9] == b"{":
                return load_file(path)
            with _LOCK:  # the list of allowed types is global to the process: remove our entries, keep all others
                ours = set(_PLAIN_TYPES) - set(torch.serialization.get_safe_globals())
                with torch.serialization.safe_globals(list(ours)):
                    return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as err:
        msg = (
            f"The weights file {origin!r} is damaged or cut off ({first_line(err)}); fetch or save it again."
            f"{quarantine(path)}"
        )
        raise WeightsCorruptedError(msg) from err
    except MemoryError:
        raise
    except Exception as err:  # a damaged pickle can raise anything
        raise WeightsCorruptedError(_unreadable(path, origin, err)) from err


def _unreadable(path: Path, origin: str, err: Exception) -> str:
    """Return a message that says why a checkpoint file cannot be read."""
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - not a zip file of torch.save, or a damaged one
        objects = _globals_of_pickles(path)
    if objects:
        named = ", ".join(objects[:3])
        return (
            f"The weights file {origin!r} holds Python objects ({named}) and loading them could run any code, so it "
            "was refused. Where you trust it, load it yourself and save the state_dict() alone."
        )
    with path.open("rb") as file:
        if file.read(256).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            return f"The weights file {origin!r} is a web page; fetch the file itself.{quarantine(path)}"
    cause = type(err).__name__ if "weights_only" in str(err) else first_line(err)  # torch suggests running it
    return (
        f"The weights file {origin!r} could not be read: it is cut off, damaged, or neither a safetensors file nor a "
        f"state dict that torch.save wrote ({cause}). Fetch or save it again.{quarantine(path)}"
    )


def _globals_of_pickles(path: Path) -> list[str]:
    """Return the names of the objects in a file's pickles, except those of torch and collections.

    Only opcodes are read; nothing is run. Before it wrote zip files, torch.save wrote pickles followed by data.
    """
    names: list[str] = []
    with path.open("rb") as file, suppress(Exception):  # data that is not a pickle can raise anything
        while file.peek(1):  # one pickle after another
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL" and not str(argument).startswith(("torch ", "torch.", "collections ")):
                    names.append(str(argument).replace(" ", "."))
    return names


def _in_folder(folder: Path) -> list[Path]:
    for name in WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            files = [folder / shard for shard in _shards(path)] if name.endswith(".index.json") else [path]
            absent = [file.name for file in files if not file.is_file()]
            if absent:
                msg = f"The folder {os.fspath(folder)!r} lacks {len(absent)} of its shards (first {absent[0]!r})."
                raise WeightsNotFoundError(msg)
            return files
    for suffix in _SUFFIXES:
        files = sorted(folder.glob(f"*{suffix}"))
        if len(files) == 1:
            return files
        if files:
            msg = f"The folder {os.fspath(folder)!r} holds {len(files)} {suffix} files; name the one that you mean."
            raise WeightsNotFoundError(msg)
    kinds = ", ".join(f"*{suffix}" for suffix in _SUFFIXES)
    msg = f"The folder {os.fspath(folder)!r} holds no weights: none of {kinds}."
    raise WeightsNotFoundError(msg)


def _shards(index: Path) -> list[str]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted(set(files))
        outside = any(Path(name).name != name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        msg = (
            f"The index of shards {os.fspath(index)!r} could not be read ({first_line(err)}); fetch it again."
            f"{quarantine(index)}"
        )
        raise WeightsCorruptedError(msg) from err
    if not names:
        msg = f"The index of shards {os.fspath(index)!r} names no file; fetch it again.{quarantine(index)}"
        raise WeightsCorruptedError(msg)
    if outside:
        msg = f"The index of shards {os.fspath(index)!r} names files outside its folder; it was refused."
        raise WeightsCorruptedError(msg)
    return names
