"""Turn parameters that get no gradient into buffers, which are saved and loaded but never trained."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def make_buffers(module: nn.Module, names: Iterable[str]) -> None:
    """Turn parameters into persistent buffers of the same names.

    They stay in state dicts. ``requires_grad_`` cannot make them trainable again, which would make DDP wait for their
    gradients.

    Parameters
    ----------
    module
        Changed in place.
    names
        Names of parameters that no output depends on.
    """
    unused = {id(module.get_parameter(name)) for name in names}
    for name, part in list(module.named_modules()):
        parameters = {key: p for key, p in part.named_parameters(recurse=False) if id(p) in unused}
        for key, parameter in parameters.items():
            delattr(part, key)
            part.register_buffer(key, parameter.detach())
        is_plain = (
            isinstance(part, _BatchNorm) and part.running_mean is not None and not any(True for _ in part.children())
        )
        if parameters and is_plain:
            parent, _, last = name.rpartition(".")
            module.get_submodule(parent).add_module(last, UnusedNorm(part))


class UnusedNorm(nn.Module):
    """A batch norm that no output depends on. Converters to synchronized norms need parameters, and skip this class."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps with the stored statistics, which never change."""
        tensors = dict(self.named_buffers())
        return F.batch_norm(
            x, tensors["running_mean"], tensors["running_var"], tensors.get("weight"), tensors.get("bias"), eps=self.eps
        )
