"""Kinds of tensors: which of them are weights, and which can take the place of another."""

import torch
from torch import Tensor


def is_code(value: Tensor) -> bool:
    """Whether a tensor is of a type that only codes of quantized formats have, where numbers are due."""
    return value.itemsize == 1 and value.ndim > 0 and not value.is_floating_point() and value.dtype != torch.bool


def is_plain(value: Tensor) -> bool:
    """Whether a tensor holds numbers, each in its place."""
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)


def same_kind(value: Tensor, own: Tensor) -> bool:
    """Whether two tensors hold the same kind of number: real, complex, integer or boolean."""
    return kind_of(value) == kind_of(own)


def kind_of(value: Tensor) -> str:
    """Return the kind of number that a tensor holds."""
    if value.is_complex() or value.is_floating_point():
        return "complex" if value.is_complex() else "real"
    return "boolean" if value.dtype == torch.bool else "integer"


def fits(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor can be the value of another one: of its shape and kind of number."""
    return is_plain(value) and value.shape == own.shape and same_kind(value, own)


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, whatever their types; NaN equals NaN."""
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    if one.dtype != other.dtype:
        one, other = one.double(), other.double()
    return torch.equal(one, other) or bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())
