"""Batch norm statistics: update them once under gradient checkpointing, and explain errors about single values."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from autobackbone.errors import InputError

_PASS = ModuleTracker()  # knows whether the current code runs in a backward pass


def count_batches_once(network: nn.Module, enable: bool = True) -> None:
    """Keep the batch norms of a network from updating their statistics during recomputation.

    A checkpointed block runs twice, so its batch norms would count each batch twice. The second run happens in the
    backward pass. There, a norm updates copies of its statistics, and the originals are restored afterwards.

    Parameters
    ----------
    network
        The network to change in place.
    enable
        Whether gradient checkpointing is on.
    """
    for module in network.modules():
        for handle in module.__dict__.pop("_counting_hooks", ()):
            handle.remove()
        if enable and _has_statistics(module):
            before = module.register_forward_pre_hook(_use_copies)
            # always called, since an exception ends recomputation early
            after = module.register_forward_hook(_restore_originals, always_call=True)
            module.__dict__["_counting_hooks"] = (before, after)


def lone_value_error(network: nn.Module, x: Tensor) -> InputError | None:
    """Return the error for a batch norm with one value per channel; ``None`` if `x` cannot be the cause.

    In training mode, one image whose map has a single cell gives a batch norm no statistics.
    """
    if x.shape[0] > 1 or not any(module.training and _has_statistics(module) for module in network.modules()):
        return None
    return InputError(
        f"One {x.shape[2]}x{x.shape[3]} image leaves batch norm one value per channel, which has no statistics to "
        "train on; give two images or more, larger ones, call eval(), or use freeze_norms()."
    )


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_var", None), Tensor)


def _use_copies(norm: nn.Module, _: Any) -> None:
    if torch.compiler.is_compiling():  # a compiled forward pass returns the statistics, so it updates them once
        return
    if norm.training and _PASS.is_bw:
        norm.__dict__["_original_statistics"] = statistics = dict(norm.named_buffers(recurse=False))
        for name, tensor in statistics.items():
            setattr(norm, name, tensor.clone())


def _restore_originals(norm: nn.Module, _: Any, __: Any) -> None:
    if torch.compiler.is_compiling():  # no copies are in use, and torch before 2.12 breaks the graph at the pop
        return
    for name, tensor in norm.__dict__.pop("_original_statistics", {}).items():
        setattr(norm, name, tensor)
