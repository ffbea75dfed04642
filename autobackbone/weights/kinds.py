"""Kinds of tensors: which are weights, and which can be loaded into another tensor."""

import torch
from torch import Tensor

# In which users ask for weights and features.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def is_code(value: Tensor) -> bool:
    """Whether a tensor has a one-byte integer dtype: codes of a quantized format, not weights."""
    return value.itemsize == 1 and value.ndim > 0 and not value.is_floating_point() and value.dtype != torch.bool


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense and holds its values: not sparse, meta, quantized or nested."""
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)


def same_kind(value: Tensor, target: Tensor) -> bool:
    """Whether two tensors hold the same kind of number: real, complex, integer or boolean."""
    return kind_of(value) == kind_of(target)


def kind_of(value: Tensor) -> str:
    """Return the kind of number that a tensor holds."""
    if value.is_complex() or value.is_floating_point():
        return "complex" if value.is_complex() else "real"
    return "boolean" if value.dtype == torch.bool else "integer"


def fits(value: Tensor, target: Tensor) -> bool:
    """Whether a tensor can be loaded into another one: it is plain, and has the same shape and kind of number."""
    return is_plain(value) and value.shape == target.shape and same_kind(value, target)


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, even in different dtypes. NaN equals NaN."""
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    if one.dtype != other.dtype:
        one, other = one.double(), other.double()
    return torch.equal(one, other) or bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())


def is_sharded(value: Tensor) -> bool:
    """Whether a tensor is a shard: a DTensor, told by an attribute because importing the class is slow."""
    return hasattr(value, "full_tensor")
