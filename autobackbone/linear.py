"""Linear layers computed as 1x1 convolutions, where that is faster.

On CPUs, torch computes float32 products of matrices with MKL, and convolutions with oneDNN. MKL does not use the widest
instructions of other makers' processors; oneDNN does. A linear layer is a 1x1 convolution over images in the
channels-last layout, so nothing is copied.
"""

import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHAPE = 256, 384, 768  # of the product that is timed: long enough to tell, and short enough to go undisturbed
_ROUNDS = 40
_GAIN = 1.1
_IMAGES = 16  # from so many on, torch gives 1x1 convolutions to oneDNN even with one thread


class ConvLinear(nn.Linear):
    """A linear layer that computes float32 on CPUs as a 1x1 convolution. Its parameters are those of the layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        is_exported = torch.compiler.is_exporting()
        if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() == 0 or is_exported:
            return super().forward(x)
        return _as_convolution(x, self.weight, self.bias)


def use_convolutions(module: nn.Module) -> None:
    """Have the plain linear layers in a module computed as convolutions, in place, if that is faster here."""
    if not conv_is_faster():
        return
    for part in module.modules():
        if type(part) is nn.Linear:  # what a subclass computes is not known
            part.__class__ = ConvLinear


@cache
def conv_is_faster() -> bool:
    """Whether this machine computes a typical linear layer faster as a convolution. Measured once in a process."""
    rows, given, made = _SHAPE
    x, weight, bias = torch.ones(rows, given), torch.ones(made, given), torch.ones(made)
    spent: dict[Any, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other wherever one of them is disturbed
    try:
        with torch.inference_mode():
            for _ in range(_ROUNDS):
                for function in (F.linear, _as_convolution):
                    start = time.perf_counter()
                    function(x, weight, bias)
                    spent[function] = min(spent.get(function, float("inf")), time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return spent[_as_convolution] * _GAIN < spent[F.linear]


def _as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    made, given = weight.shape
    rows = x.numel() // given
    images = _IMAGES if rows % _IMAGES == 0 else 1
    x4 = x.reshape(images, rows // images, 1, given).permute(0, 3, 1, 2)
    y = F.conv2d(x4, weight.view(made, given, 1, 1), bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], made)
