"""Faster shape inference for forward and backward passes on the meta device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten


def quick_shapes() -> TorchDispatchMode:
    """Return a context that computes the output shapes of common operators on meta tensors directly.

    torch infers these shapes with Python code that takes up to a millisecond per operator: most of the time of a pass
    on the meta device. All other operators, and arguments that a shortcut does not handle, go to torch, which also
    raises its own errors.
    """
    return _QuickShapes()  # type: ignore[no-untyped-call]  # torch's own


class _QuickShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        result = None if rule is None or not args[0].is_meta else rule(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is None else result


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _alike(x: Tensor, y: Any, *_: Any, **__: Any) -> Tensor | None:
    """Return the result for `x` and a `y` of the same dtype that broadcasts to the shape of `x`."""
    if isinstance(y, int | float):
        return torch.empty_like(x) if x.is_floating_point() else None
    fits = x.dtype == y.dtype and x.ndim == y.ndim and all(b in (1, a) for a, b in zip(x.shape, y.shape, strict=True))
    return torch.empty_like(x) if fits else None


def _mean(x: Tensor, dims: Sequence[int], keepdim: bool = False, **_: Any) -> Tensor | None:
    if not dims or not all(-x.ndim <= dim < x.ndim for dim in dims):
        return None
    reduced = {dim % x.ndim for dim in dims}
    return x.new_empty([1 if i in reduced else n for i, n in enumerate(x.shape) if keepdim or i not in reduced])


def _upsampled(x: Tensor, size: Sequence[int], *_: Any, **__: Any) -> Tensor | None:
    return x.new_empty((*x.shape[:2], *size)) if min(size) > 0 else None


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _second(_: Any, x: Tensor, *__: Any, **___: Any) -> Tensor:
    return torch.empty_like(x)


def _addmm(bias: Tensor, x: Tensor, y: Tensor, **_: Any) -> Tensor | None:
    fits = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[0] and bias.shape == y.shape[1:]
    return x.new_empty((x.shape[0], y.shape[1])) if fits else None


def _batch_norm(x: Tensor, weight: Any, _: Any, mean: Any, *rest: Any) -> tuple[Tensor, ...] | None:
    if any(t is not None and t.shape != x.shape[1:2] for t in (weight, mean)):
        return None
    channels = x.shape[1] if rest[1] else 0  # batch statistics, only in training
    return torch.empty_like(x), x.new_empty(channels), x.new_empty(channels)


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any) -> tuple[Tensor, ...] | None:
    if not shape or tuple(x.shape[-len(shape) :]) != tuple(shape):
        return None
    statistics = (*x.shape[: x.ndim - len(shape)], *(1 for _ in shape))
    return torch.empty_like(x), x.new_empty(statistics), x.new_empty(statistics)


def _batch_norm_backward(_: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    gradients = torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    return tuple(t if is_needed else None for t, is_needed in zip(gradients, rest[-1], strict=True))


def _layer_norm_backward(_: Tensor, x: Tensor, shape: Sequence[int], *rest: Any) -> tuple[Tensor | None, ...]:
    gradients = torch.empty_like(x), x.new_empty(shape), x.new_empty(shape)
    return tuple(t if is_needed else None for t, is_needed in zip(gradients, rest[-1], strict=True))


_RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.gelu.default, aten.relu.default, aten.sigmoid.default, aten.tanh.default), _like),
    **dict.fromkeys((aten._softmax.default, aten._safe_softmax.default, aten.mul.Scalar), _like),  # noqa: SLF001 - torch's names
    **dict.fromkeys((aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor), _alike),
    **dict.fromkeys((aten.silu_.default, aten.hardswish_.default), _same),
    **dict.fromkeys((aten.sigmoid_.default, aten.tanh_.default), _same),
    **dict.fromkeys((aten.normal_.default, aten.uniform_.default, aten.clamp_.default, aten.erfinv_.default), _same),
    **dict.fromkeys((aten.upsample_bicubic2d.default, aten.upsample_bilinear2d.default), _upsampled),
    **dict.fromkeys((aten.gelu_backward.default, aten.threshold_backward.default, aten.tanh_backward.default), _second),
    **dict.fromkeys((aten.sigmoid_backward.default, aten._softmax_backward_data.default), _second),  # noqa: SLF001
    aten.mean.dim: _mean,
    aten.addmm.default: _addmm,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
}
