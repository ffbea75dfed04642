"""Building models that are about to be loaded: no random weights, and the checkpoint's tensors taken as they are."""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.weights.kinds import same_kind
from autobackbone.weights.loading import load_checkpoint
from autobackbone.weights.report import WeightsReport

_M = TypeVar("_M", bound=nn.Module)

# What initializes a parameter in place, by name (transformers puts functions of its own in the place of torch's): the
# functions of torch.nn.init that torch lets a mode see, and the methods that all others come down to.
_FILLS = {name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
_FILLS |= {"add_", "bernoulli_", "clamp_", "copy_", "copysign_", "div_", "erfinv_", "exp_", "exponential_", "fill_"}
_FILLS |= {"log_", "mul_", "neg_", "normal_", "pow_", "random_", "sqrt_", "sub_", "uniform_", "zero_"}
# How torch's truncated normal looks for values to draw again.
_COMPARISONS = {Tensor.lt, Tensor.gt}
# Where load_state_dict copies a tensor.
_LOADING = nn.Module._load_from_state_dict.__code__  # noqa: SLF001 - documented for subclasses to extend


class SkipInit(TorchFunctionMode):
    """Leave parameters without values, and let a state dict that is loaded give them its own tensors.

    In-place initialization of a parameter does nothing: its memory is reserved and never touched. When
    `Module.load_state_dict` copies a tensor of the same shape, dtype and device into a parameter, the parameter becomes
    that tensor: a file mapped into memory stays mapped. All else runs as it is, so buffers and constants are what the
    model's own code computes. Applies to the current thread.

    A tensor of another kind of number is not loaded at all: torch would make numbers of codes, and real numbers of
    complex ones.

    Afterwards `is_loaded` tells of a parameter or buffer whether a state dict gave it its values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._empty: dict[int, Tensor] = {}  # by id; holding the tensor keeps the id from being used again
        self._loaded: dict[int, Tensor] = {}
        self._taken: set[int] = set()  # addresses

    def is_loaded(self, tensor: Tensor) -> bool:
        """Whether a state dict gave a tensor its values, and no initialization was left out since."""
        return id(tensor) in self._loaded

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target: Any = args[0] if args else kwargs.get("tensor")
        if func is Tensor.copy_ and sys._getframe(1).f_code is _LOADING:  # noqa: SLF001 - who copies is what matters
            if args[1] is target or not same_kind(args[1], target):  # torch gives counters that are not there their own
                return target
            self._loaded[id(target)] = target
            self._empty.pop(id(target), None)
            if isinstance(target, nn.Parameter) and self._can_be(target, args[1]):
                target.data = args[1].detach()
                return target
        elif getattr(func, "__name__", "") in _FILLS and isinstance(target, nn.Parameter):
            self._empty[id(target)] = target
            self._loaded.pop(id(target), None)
            return target
        elif func in _COMPARISONS and id(target) in self._empty:
            return torch.zeros((), dtype=torch.bool, device=target.device)  # there is nothing to draw again
        return func(*args, **kwargs)

    def _can_be(self, target: Tensor, source: Tensor) -> bool:
        """Whether a parameter can be a tensor: of the same kind, with memory that is all its own."""
        if (target.shape, target.dtype, target.device) != (source.shape, source.dtype, source.device):
            return False
        address = source.data_ptr()
        whole = source.is_contiguous() and source.untyped_storage().nbytes() == source.nbytes
        if not whole or not address or address in self._taken:
            return False
        self._taken.add(address)
        return True


@contextmanager
def unexpected_keys() -> Iterator[list[str]]:
    """Collect what state dicts hold that the modules built in this context and thread have no place for."""
    left: list[list[str]] = []
    names: list[str] = []
    thread = threading.get_ident()
    watched: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def watch(parent: nn.Module, _name: str, _module: nn.Module | None) -> None:
        if threading.get_ident() == thread and parent not in watched:
            watched.add(parent)
            parent.register_load_state_dict_post_hook(collect)  # type: ignore[no-untyped-call]

    def collect(_module: nn.Module, keys: Any) -> None:
        if not any(keys.unexpected_keys is known for known in left):  # one list for a module and all in it
            left.append(keys.unexpected_keys)

    handle = register_module_module_registration_hook(watch)
    try:
        yield names
    finally:
        handle.remove()
        names += dict.fromkeys(name for keys in left for name in keys)


def is_loading(config: BackboneConfig | FeatureBackboneConfig) -> bool:
    """Whether a config asks for weights, and the default device can hold them: the meta device cannot."""
    return (config.pretrained or config.weights is not None) and torch.get_default_device().type != "meta"


def build_loaded(create: Callable[[AbstractContextManager[Any]], _M]) -> _M:
    """Build a model and load it, fast if its weights cover it whole.

    Parameters
    ----------
    create
        Builds the model and loads a state dict into it, both within the context that it is given. Where that leaves
        parameters without values, it is called a second time, to initialize them by the model's own code.

    Returns
    -------
    nn.Module
        On the default device.
    """
    device = torch.get_default_device()
    moved = device.type != "cpu"  # files are read on the CPU
    with torch.device("cpu") if moved else nullcontext():
        mode = SkipInit()
        model = create(mode)
        if not all(map(mode.is_loaded, model.parameters())):
            model = create(nullcontext())
    return model.to(device) if moved else model


def build_from(
    content: Mapping[str, Any], source: str, build: Callable[[], tuple[_M, Any]]
) -> tuple[_M, WeightsReport]:
    """Build a model and load a checkpoint into it.

    Parameters
    ----------
    content
        What the checkpoint holds.
    source
        Where it is from, for messages.
    build
        Returns what is wanted, and the part of it that has the library's names and ``checkpoint_rules``.

    Returns
    -------
    nn.Module, WeightsReport
        Without a classifier if the checkpoint has none that fits: a new one is made outside, where it is initialized.

    Raises
    ------
    WeightsError
        If the checkpoint does not fit.
    """
    reports: list[WeightsReport] = []

    def create(loading: AbstractContextManager[Any]) -> _M:
        with loading:
            wanted, named = build()
        rules = named.checkpoint_rules
        report = load_checkpoint(named, content, source, rules, within=loading)
        reports.append(report)
        if any(name.startswith(rules.optional) for name in (*report.missing, *report.mismatched)):
            named.reset_classifier(0)
        return wanted

    return build_loaded(create), reports[-1]
