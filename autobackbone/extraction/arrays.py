"""Columns of a table as arrays in files that are mapped into memory, and as a torch data set."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autobackbone.errors import OutputError
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from autobackbone.extraction.output import Output


def file_for(output: Output, parts: Sequence[str], name: str) -> Path:
    """Return the file for a column: its name says which table and which states of its parts it is of.

    It is beside the table, or in the temporary folder if the table's folder is remote or read-only.
    """
    whose = sha256(output.path().encode()).hexdigest()[:12]
    states = map(output.state, parts)
    digest = f"{whose}-{sha256(repr(list(states)).encode()).hexdigest()[:16]}"
    if output.is_local:
        folder = Path(output.path(".cache"))
        try:
            folder.mkdir(exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder / f"{name}-{digest}.npy"
        except OSError:
            pass
    user = os.getuid() if hasattr(os, "getuid") else ""  # the folder is shared with others
    folder = Path(tempfile.gettempdir()) / f"autobackbone-features-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}-{digest}.npy"


def write_array(path: Path, shape: tuple[int, ...], kind: Any, parts: Iterator[np.ndarray]) -> None:
    """Write an array that comes in parts, whole or not at all. Files for older states of the table are removed.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.urandom(4).hex()}.partial")
    try:
        with partial.open("xb") as file:  # not mapped: a full disk would kill the process
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
        for old in path.parent.glob(f"{path.name.rpartition('-')[0]}-*.npy"):
            if old != path:  # another process may map that one
                old.unlink(missing_ok=True)
        partial.replace(path)
    except OutputError:  # a part cannot be read
        raise
    except OSError as err:
        msg = f"{shown(str(path))} cannot be written ({err}); numpy() needs room for the column, uncompressed."
        raise OutputError(msg) from err
    finally:
        partial.unlink(missing_ok=True)


def is_array(path: Path, shape: tuple[int, ...], kind: Any) -> bool:
    """Whether a file is there and whole: not cut, and of this shape and type."""
    try:
        mapped = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return False
    return isinstance(mapped, np.ndarray) and mapped.shape == shape and mapped.dtype == np.dtype(kind)


def unit_rows(features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``(N, *shape)`` features as ``(N, D)`` rows of length 1."""
    return torch.nn.functional.normalize(features.flatten(1).to(dtype), dim=1)


def from_bits(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given as their bits, as float32."""
    numbers: np.ndarray = (bits.astype(np.uint32) << 16).view(np.float32)
    return numbers


class FeatureDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows of a table as a map-style torch ``Dataset``.

    Attributes
    ----------
    ids
        The id of each item.
    tensors
        ``(N, *shape)`` of each column.
    """

    def __init__(self, ids: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        self.ids = ids
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"id": self.ids[i]} | {name: tensor[i] for name, tensor in self.tensors.items()}
