"""Building a model with random weights: each parameter that stays is initialized once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autobackbone.weights.building import FILLS, INITIALIZERS, Built

# What leaves nothing of the values that were there.
_OVERWRITES = INITIALIZERS | {"bernoulli_", "exponential_", "fill_", "normal_", "random_", "uniform_", "zero_"}
# What looks at a tensor without its values.
_LOOKS = {Tensor.dim, Tensor.is_contiguous, Tensor.is_floating_point, Tensor.numel, Tensor.requires_grad_, Tensor.size}
_LOOKS |= {
    getattr(Tensor, name).__get__
    for name in ("device", "dtype", "grad_fn", "is_meta", "ndim", "requires_grad", "shape")
}


def build_random(build: Callable[[], Built]) -> Built:
    """Build a model with random weights, and initialize only the parameters that it has in the end.

    Libraries initialize most parameters twice, when a layer is made and when the model is complete, and those as well
    that are pruned afterwards.

    Parameters
    ----------
    build
        Builds the model.
    """
    if torch.get_default_device().type == "meta":
        return build()
    mode = DeferInit()
    with mode:
        built = build()
    mode.initialize(built.module)
    return built


class DeferInit(TorchFunctionMode):
    """Put off the initialization of parameters until `initialize`.

    - In-place initialization of a parameter is recorded. What is recorded of it is forgotten if all of it is
      overwritten later.
    - If anything else is done with a parameter, what is recorded of it is done first, and nothing of it is put off from
      then on. So no code sees values other than its own.
    - Everything else runs as usual.

    Applies to the current thread. The distributions are those of the model's own code. The numbers that a seed gives
    are not, because fewer are drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        # By id. Holding the tensor keeps the id, and its memory, from being used again.
        self._deferred: dict[int, tuple[Tensor, list[Callable[[], Any]]]] = {}
        self._touched: dict[int, Tensor] = {}

    @torch.no_grad()
    def initialize(self, module: nn.Module) -> None:
        """Do what was put off, for the tensors of a module alone. Call it outside of the mode."""
        kept = {t.data_ptr() for t in (*module.parameters(), *module.buffers())}  # parameters can share memory
        for tensor, calls in self._deferred.values():
            if tensor.data_ptr() in kept:
                for call in calls:
                    call()
        self._deferred.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LOOKS:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in FILLS and self._defer(name, func, args, kwargs):
            return args[0] if args else kwargs["tensor"]
        for value in (*args, *kwargs.values()):
            if type(value) is nn.Parameter:
                self._touch(value)
            elif type(value) in (list, tuple):  # of tensors to join
                for item in value:
                    if type(item) is nn.Parameter:
                        self._touch(item)
        return func(*args, **kwargs)

    def _defer(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Record the initialization of a parameter, unless it reads another tensor, which may change until then."""
        target, *others = (*args, *kwargs.values())
        if type(target) is not nn.Parameter or id(target) in self._touched:
            return False
        if any(isinstance(value, Tensor) and value is not target for value in others):
            return False
        _, calls = self._deferred.setdefault(id(target), (target, []))
        if name in _OVERWRITES:
            calls.clear()
        calls.append(lambda: func(*args, **kwargs))
        return True

    @torch.no_grad()
    def _touch(self, tensor: Tensor) -> None:
        """Do what was put off for a parameter, and put off no more."""
        self._touched[id(tensor)] = tensor
        _, calls = self._deferred.pop(id(tensor), (tensor, []))
        for call in calls:
            call()
