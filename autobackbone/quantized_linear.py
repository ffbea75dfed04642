"""Linear layers with 8-bit weights, computed by torchao.

torchao keeps a quantized weight as one tensor of a class of its own. Here its parts are buffers, plain tensors: they
are saved, loaded, copied and hashed like any others, and torchao gets its tensor back for each call.
"""

import warnings
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobackbone.errors import UnsupportedError
from autobackbone.linear import ConvLinear

_PERSISTENT = ("qdata", "scale")  # parts that say it all: the others are zeros, and some versions of torchao have none
# By what torchao calls them.
_CONFIGS = {"int8_weight_only": "Int8WeightOnlyConfig", "int8_dynamic": "Int8DynamicActivationInt8WeightConfig"}
SCHEMES = tuple(_CONFIGS)


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight is quantized."""

    scheme: str
    dtype: torch.dtype  # of its weight

    @property
    def weight(self) -> Tensor:  # type: ignore[override] # nobody sets it
        """The weight as a plain tensor, for networks that compute with it themselves."""
        weight: Tensor = self._quantized.dequantize()
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if x.numel() == 0:  # torchao computes none
            return x.new_empty(*x.shape[:-1], self.out_features)
        return F.linear(x, self._quantized, self.bias)

    @property
    def _quantized(self) -> Any:
        """The weight as torchao has it."""
        kind, names, context = _anatomy(self.scheme, self.in_features, self.dtype)
        parts = {name: self.get_buffer(f"weight_{name}") for name in names}
        size = torch.Size((self.out_features, self.in_features))
        return kind.__tensor_unflatten__(parts, context, size, (self.in_features, 1))


def check_installed() -> None:
    """Raise UnsupportedError if torchao is missing."""
    if find_spec("torchao") is None:
        msg = "Quantization needs torchao: pip install 'autobackbone[quantize]'."
        raise UnsupportedError(msg)


def quantize_linear(module: nn.Module, scheme: str) -> int:
    """Quantize the plain linear layers in a module, in place: what a subclass computes is not known. Return how many.

    Parameters
    ----------
    module
        In the dtype that it computes in, on any device.
    scheme
        One of `SCHEMES`.
    """
    layers: list[Any] = [part for part in module.modules() if type(part) in (nn.Linear, ConvLinear)]
    layers = [layer for layer in layers if layer.in_features > 1]  # of those with one, torchao takes none
    for layer in layers:
        _quantize(layer, scheme)
    return len(layers)


def is_scale(module: nn.Module, name: str) -> bool:
    """Whether a tensor of a module is a scale of quantized weights, which keeps its precision in every dtype."""
    return isinstance(module, QuantizedLinear) and name.startswith("weight_")


def _quantize(layer: Any, scheme: str) -> None:
    weight = _as_quantized(layer.weight, scheme)
    dtype = layer.weight.dtype
    del layer.weight
    layer.__class__ = QuantizedLinear
    layer.scheme, layer.dtype = scheme, dtype
    names, _ = weight.__tensor_flatten__()
    for name in names:
        layer.register_buffer(f"weight_{name}", getattr(weight, name).detach(), persistent=name in _PERSISTENT)


def _as_quantized(weight: Tensor, scheme: str) -> Any:
    layer: Any = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.out_features, layer.in_features = weight.shape
    with torch.no_grad():
        _torchao(scheme)(layer)
    return layer.weight


@cache
def _anatomy(scheme: str, in_features: int, dtype: torch.dtype) -> tuple[Any, tuple[str, ...], Any]:
    """Return the class of torchao's tensor, the names of its parts, and what else it knows of itself."""
    weight = _as_quantized(torch.empty(1, in_features, dtype=dtype, device="meta"), scheme)
    names, context = weight.__tensor_flatten__()
    return type(weight), tuple(names), context


@cache
def _torchao(scheme: str) -> Any:
    check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own code
        from torchao import quantization
    return partial(quantization.quantize_, config=getattr(quantization, _CONFIGS[scheme])(version=2))
