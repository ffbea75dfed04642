"""Objects with many tensors as one pickle and one array per storage, for memory that several processes share.

Ray keeps arrays in shared memory, and gives every process of a machine the same ones, read-only. So the weights of a
backbone are in memory once per machine, whichever module holds them.
"""

from __future__ import annotations

import pickle
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from ray import cloudpickle
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class Packed(NamedTuple):
    """A pickled object.

    Attributes
    ----------
    pickled
        The object without its tensors, bytes.
    tensors
        What the tensors are.
    storages
        Their bytes: tensors that share memory have the same one.
    """

    pickled: np.ndarray
    tensors: Sequence[_PackedTensor]
    storages: Sequence[np.ndarray]


class _PackedTensor(NamedTuple):
    """A tensor: a view of a storage."""

    storage: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    is_parameter: bool


def pack(value: Any) -> Packed:
    """Pickle an object, with its tensors as arrays. Functions of a script or a notebook are pickled by value."""
    with BytesIO() as file:
        pickler = _Pickler(file)
        pickler.dump(value)
        pickled = np.frombuffer(file.getvalue(), np.uint8)
    return Packed(pickled, pickler.tensors, list(map(_bytes_of, pickler.storages)))


def unpack(packed: Packed) -> Any:
    """Return the object, with tensors on the CPU.

    Parameters are read-only: they are the memory of the arrays itself. Other tensors are copies, because modules write
    into their buffers.
    """
    return _Unpickler(packed).load()


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc] # Ray is taken as Any
    """Keeps tensors apart. A tensor that occurs twice is one tensor afterwards, too."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[_PackedTensor] = []
        self.storages: list[torch.UntypedStorage] = []
        self._numbers: dict[int, int] = {}
        self._storage_numbers: dict[tuple[torch.device, int], int] = {}
        self._alive: list[Tensor] = []  # so that no other tensor gets the id of one

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) not in (Tensor, nn.Parameter) or not _is_plain(obj):
            return None  # pickled as torch does it
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.tensors)
            self._alive.append(obj)
            self.tensors.append(self._packed(obj))
        return self._numbers[id(obj)]

    def _packed(self, tensor: Tensor) -> _PackedTensor:
        storage = tensor.untyped_storage()
        key = tensor.device, storage.data_ptr() or -len(self.storages)  # empty ones have no address
        if key not in self._storage_numbers:
            self._storage_numbers[key] = len(self.storages)
            self.storages.append(storage)
        return _PackedTensor(
            self._storage_numbers[key],
            tensor.dtype,
            int(tensor.storage_offset()),
            tuple(tensor.shape),
            tensor.stride(),
            isinstance(tensor, nn.Parameter),
        )


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: Packed) -> None:
        super().__init__(BytesIO(packed.pickled.data))
        shared = {tensor.storage for tensor in packed.tensors if tensor.is_parameter}
        storages = [_storage_of(array, copied=i not in shared) for i, array in enumerate(packed.storages)]
        self._tensors = [_tensor_of(tensor, storages[tensor.storage]) for tensor in packed.tensors]

    def persistent_load(self, pid: int) -> Tensor:
        return self._tensors[pid]


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory, and nothing else."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_meta
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _bytes_of(storage: torch.UntypedStorage) -> np.ndarray:
    on_cpu = storage.cpu()  # type: ignore[no-untyped-call] # torch's
    array: np.ndarray = torch.empty(0, dtype=torch.uint8).set_(on_cpu).numpy()
    return array


def _storage_of(array: np.ndarray, *, copied: bool) -> torch.UntypedStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the array is read-only: parameters are not written
        return torch.from_numpy(array.copy() if copied else array).untyped_storage()


def _tensor_of(packed: _PackedTensor, storage: torch.UntypedStorage) -> Tensor:
    tensor = torch.empty(0, dtype=packed.dtype).set_(storage, packed.offset, packed.shape, packed.stride)
    return nn.Parameter(tensor, requires_grad=False) if packed.is_parameter else tensor
