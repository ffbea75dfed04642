"""Building models that are about to be loaded: no random weights, and the checkpoint's tensors taken as they are."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autobackbone.config import BackboneConfig, FeatureBackboneConfig

_M = TypeVar("_M", bound=nn.Module)

# What initialises a parameter in place. The mode sees the functions of torch.nn.init that torch lets it see, and the
# methods that all others, timm's and transformers' own included, come down to.
_FILLS = {getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
_FILLS |= {Tensor.add_, Tensor.bernoulli_, Tensor.clamp_, Tensor.copysign_, Tensor.div_, Tensor.erfinv_, Tensor.exp_}
_FILLS |= {Tensor.exponential_, Tensor.fill_, Tensor.log_, Tensor.mul_, Tensor.neg_, Tensor.normal_, Tensor.pow_}
_FILLS |= {Tensor.random_, Tensor.sqrt_, Tensor.sub_, Tensor.uniform_, Tensor.zero_}


class skip_init(TorchFunctionMode):  # noqa: N801 - used as a context, like torch.no_grad
    """Leave parameters without values, and let a state dict that is loaded give them its own tensors.

    In-place initialisation of a parameter does nothing: its memory is reserved and never touched. Copying a tensor of
    the same shape, dtype and device into a parameter, as `Module.load_state_dict` does, makes the parameter that
    tensor: a file mapped into memory stays mapped. All else runs as it is, so buffers and constants are what the
    model's own code computes. Applies to the current thread.

    Afterwards `is_loaded` tells of a parameter or buffer whether a tensor was copied into it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loaded: dict[int, Tensor] = {}  # by id; holding the tensor keeps the id from being used again
        self._taken: set[int] = set()  # addresses

    def is_loaded(self, tensor: Tensor) -> bool:
        """Whether a tensor was copied into this one, and no initialisation was left out since."""
        return id(tensor) in self._loaded

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target: Any = args[0] if args else kwargs.get("tensor")
        if func in _FILLS and isinstance(target, nn.Parameter):
            self._loaded.pop(id(target), None)
            return target
        if func is Tensor.copy_:
            source = args[1]
            self._loaded[id(target)] = target
            if isinstance(target, nn.Parameter) and self._can_be(target, source):
                target.data = source.detach()
                return target
        return func(*args, **kwargs)

    def _can_be(self, target: Tensor, source: Tensor) -> bool:
        """Whether a parameter can be a tensor: the same kind, whole, and no other parameter's as well."""
        if (target.shape, target.dtype, target.device) != (source.shape, source.dtype, source.device):
            return False
        address = source.data_ptr()
        if not address or address in self._taken or not source.is_contiguous():
            return False
        self._taken.add(address)
        return True


def is_loading(config: BackboneConfig | FeatureBackboneConfig) -> bool:
    """Whether a config asks for weights, and the default device can hold them: the meta device cannot."""
    return (config.pretrained or config.weights is not None) and torch.get_default_device().type != "meta"


def build_loaded(create: Callable[[], _M]) -> _M:
    """Build a model and load it, fast if its weights cover it whole.

    Parameters
    ----------
    create
        Builds the model and loads a state dict into it. Where that leaves parameters without values, it is called a
        second time, to initialise them by the model's own code.

    Returns
    -------
    nn.Module
        On the default device.
    """
    device = torch.get_default_device()
    moved = device.type != "cpu"  # files are read on the CPU
    with torch.inference_mode(mode=False), torch.device("cpu") if moved else nullcontext():
        with skip_init() as mode:
            model = create()
        if not all(map(mode.is_loaded, model.parameters())):
            model = create()
    return model.to(device) if moved else model
