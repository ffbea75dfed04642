"""What a forward pass leaves in memory for the backward pass, counted on the meta device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

_BATCH = 2  # one image leaves some batch norms a single value, which has no statistics


def count_activations(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Count the numbers that one image leaves for the backward pass, all parameters trained.

    They are those of the tensors that autograd saves, each memory once, without parameters and buffers. Attention
    leaves what fused kernels leave: no matrix of N x N, unless a bias of that size is trained. What recurrent layers
    leave depends on the kernel; here they are one operation.

    Parameters
    ----------
    network
        On the meta device. It is in training mode afterwards.
    image_shape
        Channels, height and width of an image.
    """
    network.train().requires_grad_(requires_grad=True)
    own = {_memory(tensor) for tensor in (*network.parameters(), *network.buffers())}
    saved: dict[StorageWeakRef, int] = {}
    alive = []  # so that no memory is taken for another that is gone

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        saved[_memory(tensor)] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    # With torch's own shapes: how memory is laid out decides what is a copy.
    with torch.device("meta"), torch.inference_mode(mode=False), torch.enable_grad():
        images = torch.empty(_BATCH, *image_shape)
        with saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
            network(images)
    return sum(count for storage, count in saved.items() if storage not in own) // _BATCH


def _memory(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


class _FusedAttention(TorchFunctionMode):
    """Takes attention for what a fused kernel saves, where torch has one on the CPU; on the meta device it has none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        query, key, value, mask = named["query"], named["key"], named["value"], named.get("attn_mask")
        if query.ndim != 4 or query.shape[-1] != value.shape[-1] or (mask is not None and mask.requires_grad):
            return func(*args, **kwargs)
        return _Fused.apply(query, key, value)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output
