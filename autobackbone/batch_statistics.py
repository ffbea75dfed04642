"""Batch statistics: counted once under gradient checkpointing, and not to be had of a single value."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from autobackbone.errors import InputError

_PASS = ModuleTracker()  # tells whether the code that asks runs in a backward pass


def count_batches_once(network: nn.Module, enable: bool = True) -> None:
    """Have the batch norms of a network leave their statistics alone while they are recomputed.

    A checkpointed block runs twice, and a batch norm in it would count each batch twice. What runs within a backward
    pass is recomputed: then the norm is given copies of its statistics, for as long as it runs.

    Parameters
    ----------
    network
        What is checkpointed, or is to be no more.
    enable
        Whether it is.
    """
    for module in network.modules():
        for handle in module.__dict__.pop("_counting_hooks", ()):
            handle.remove()
        if enable and _has_statistics(module):
            before = module.register_forward_pre_hook(_hold)
            after = module.register_forward_hook(_release, always_call=True)  # an exception ends recomputation early
            module.__dict__["_counting_hooks"] = (before, after)


def lone_value_error(network: nn.Module, x: Tensor) -> InputError | None:
    """Return what to say of a batch norm that found one value per channel; ``None`` if no image of `x` can lead to it.

    One image of a size that leaves a single cell, in training mode: then there are no statistics.
    """
    if x.shape[0] > 1 or not any(module.training and _has_statistics(module) for module in network.modules()):
        return None
    return InputError(
        f"One {x.shape[2]}x{x.shape[3]} image leaves batch norm one value per channel, which has no statistics to "
        "train on; give two images or more, larger ones, call eval(), or use freeze_norms()."
    )


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_var", None), Tensor)


def _hold(norm: nn.Module, _: Any) -> None:
    if torch.compiler.is_compiling():  # a compiled forward pass has the statistics among its results: once
        return
    if norm.training and _PASS.is_bw:
        norm.__dict__["_held"] = held = dict(norm.named_buffers(recurse=False))
        for name, tensor in held.items():
            setattr(norm, name, tensor.clone())


def _release(norm: nn.Module, _: Any, __: Any) -> None:
    for name, tensor in norm.__dict__.pop("_held", {}).items():
        setattr(norm, name, tensor)
