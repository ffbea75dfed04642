"""Building a model that is about to be loaded: no random initialization, and no copies of the checkpoint's tensors."""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.kinds import same_kind
from autobackbone.weights.loading import load_checkpoint
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import CheckpointRules

# What initializes a parameter in place, by name (transformers puts functions of its own in the place of torch's): the
# functions of torch.nn.init that torch lets a mode see, and the methods that all others come down to.
INITIALIZERS = {name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
FILLS = INITIALIZERS | {"add_", "bernoulli_", "clamp_", "copy_", "copysign_", "div_", "erfinv_", "exp_", "fill_"}
FILLS |= {"exponential_", "log_", "mul_", "neg_", "normal_", "pow_", "random_", "sqrt_", "sub_", "uniform_", "zero_"}
# How torch's truncated normal looks for values to draw again.
_COMPARISONS = {Tensor.lt, Tensor.gt}
# Where load_state_dict copies a tensor.
_LOADING = nn.Module._load_from_state_dict.__code__  # noqa: SLF001 - documented for subclasses to extend


class SkipInit(TorchFunctionMode):
    """Skip the initialization of parameters, and let ``load_state_dict`` replace them by the tensors it loads.

    - In-place initialization of a parameter does nothing: its memory is reserved and never touched.
    - When ``load_state_dict`` copies a tensor of the same shape, dtype and device into a parameter, the parameter
      becomes that tensor. A file mapped into memory stays mapped.
    - A tensor of another kind of number is not loaded at all: torch would make numbers of codes, and real numbers of
      complex ones.
    - Everything else runs as usual, so buffers and constants are what the model's own code computes.

    Applies to the current thread. Afterwards `is_loaded` tells whether a state dict gave a tensor its values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._empty: dict[int, Tensor] = {}  # by id; holding the tensor keeps the id from being used again
        self._loaded: dict[int, Tensor] = {}
        self._addresses: set[int] = set()  # of the tensors that parameters became

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
        elif getattr(func, "__name__", "") in FILLS and isinstance(target, nn.Parameter):
            self._empty[id(target)] = target
            self._loaded.pop(id(target), None)
            return target
        elif func in _COMPARISONS and id(target) in self._empty:
            return torch.zeros((), dtype=torch.bool, device=target.device)  # there is nothing to draw again
        return func(*args, **kwargs)

    def _can_be(self, target: Tensor, value: Tensor) -> bool:
        """Whether a parameter can become a tensor: of the same form, and with memory that it shares with no other."""
        if (target.shape, target.dtype, target.device) != (value.shape, value.dtype, value.device):
            return False
        address = value.data_ptr()
        is_alone = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        if not is_alone or not address or address in self._addresses:
            return False
        self._addresses.add(address)
        return True


@contextmanager
def unexpected_keys() -> Iterator[list[str]]:
    """Collect the keys of state dicts that the modules built in this context and thread have no place for."""
    collected: list[list[str]] = []
    names: list[str] = []
    thread = threading.get_ident()
    watched: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def watch(parent: nn.Module, _name: str, _module: nn.Module | None) -> None:
        if threading.get_ident() == thread and parent not in watched:
            watched.add(parent)
            parent.register_load_state_dict_post_hook(collect)  # type: ignore[no-untyped-call]

    def collect(_module: nn.Module, keys: Any) -> None:
        if not any(keys.unexpected_keys is other for other in collected):  # one list for a module and all in it
            collected.append(keys.unexpected_keys)

    handle = register_module_module_registration_hook(watch)
    try:
        yield names
    finally:
        handle.remove()
        names += dict.fromkeys(name for keys in collected for name in keys)


def is_loading(config: BackboneConfig | FeatureBackboneConfig) -> bool:
    """Whether a config asks for weights, and the default device can hold them: the meta device cannot."""
    return (config.pretrained or config.weights is not None) and torch.get_default_device().type != "meta"


class Built(NamedTuple):
    """A model that was built.

    Attributes
    ----------
    module
        The model.
    network
        The library's own network, under its own names: the model, or a part of it.
    rules
        How checkpoints are matched to the network.
    """

    module: Any
    network: Any
    rules: CheckpointRules


def build_loaded(create: Callable[[AbstractContextManager[Any]], Built]) -> Built:
    """Build a model and load it, fast if its weights cover it whole.

    Parameters
    ----------
    create
        Builds the model and loads a state dict into it, both within the context that it is given. If that leaves
        parameters without values, it is called a second time, to initialize them by the model's own code.

    Returns
    -------
    Built
        On the default device.
    """
    device = torch.get_default_device()
    is_elsewhere = device.type != "cpu"  # files are read on the CPU
    with torch.device("cpu") if is_elsewhere else nullcontext():
        mode = SkipInit()
        built = create(mode)
        if not all(map(mode.is_loaded, built.module.parameters())):
            built = create(nullcontext())
    if is_elsewhere:
        built.module.to(device)
    return built


def build_from(checkpoint: Checkpoint, build: Callable[[], Built]) -> tuple[Built, WeightsReport]:
    """Build a model and load a checkpoint into it.

    Parameters
    ----------
    checkpoint
        The weights.
    build
        Builds the model.

    Returns
    -------
    Built, WeightsReport
        Without a classifier if the checkpoint has none that fits. The caller makes a new one, initialized as usual.

    Raises
    ------
    WeightsError
        If the checkpoint does not fit.
    """
    reports: list[WeightsReport] = []

    def create(loading: AbstractContextManager[Any]) -> Built:
        with loading:
            built = build()
        report = load_checkpoint(built.network, checkpoint, built.rules, within=loading)
        reports.append(report)
        if any(name.startswith(built.rules.head_prefixes) for name in (*report.missing, *report.mismatched)):
            built.network.reset_classifier(0)
        return built

    return build_loaded(create), reports[-1]
