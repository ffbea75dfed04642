"""Parameters that can get no gradient, made what they are: tensors that are saved and loaded, and never trained."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def make_buffers(module: nn.Module, names: Iterable[str]) -> None:
    """Turn parameters into persistent buffers, under the same names.

    They stay in state dicts, and are no parameters to anybody: ``requires_grad_`` cannot bring them back, so that DDP
    would wait for their gradients.

    Parameters
    ----------
    module
        Changed in place.
    names
        Of parameters that no output depends on.
    """
    unused = {id(module.get_parameter(name)) for name in names}
    for name, part in list(module.named_modules()):
        own = {key: p for key, p in part.named_parameters(recurse=False) if id(p) in unused}
        for key, parameter in own.items():
            delattr(part, key)
            part.register_buffer(key, parameter.detach())
        is_plain = (
            isinstance(part, _BatchNorm) and part.running_mean is not None and not any(True for _ in part.children())
        )
        if own and is_plain:
            parent, _, last = name.rpartition(".")
            module.get_submodule(parent).add_module(last, UnusedNorm(part))


class UnusedNorm(nn.Module):
    """A batch norm that no output depends on: converters to synchronized norms, which want parameters, pass over it."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps by the statistics that there are, which never change."""
        tensors = dict(self.named_buffers())
        return F.batch_norm(
            x, tensors["running_mean"], tensors["running_var"], tensors.get("weight"), tensors.get("bias"), eps=self.eps
        )
