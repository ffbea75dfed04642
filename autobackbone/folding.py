"""Batch norms that only scale and shift what a convolution gives, folded into its weights.

Which norm follows which convolution is seen in a forward pass on the meta device, not read from names: the norm must be
the only operation that reads the output of the convolution, and the convolution must be computed with a parameter that
nothing else reads. Norms after an activation, a sum or a concatenation stay.
"""

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from autobackbone.errors import UnsupportedError
from autobackbone.sources.meta import FAILURES

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Fold(NamedTuple):
    """A batch norm that can be folded.

    Attributes
    ----------
    conv
        Path of the convolution.
    norm
        Path of the norm.
    rest
        Names of the norm's children that run after it, in order: timm's norms contain the activation.
    """

    conv: str
    norm: str
    rest: tuple[str, ...]


def find_folds(model: nn.Module, network: str, images: Tensor) -> list[Fold]:
    """Return the batch norms of a network that can be folded.

    Parameters
    ----------
    model
        A module in evaluation mode. It is not changed.
    network
        Path in it of the module that the paths of the result start from.
    images
        An input, on the meta device.

    Raises
    ------
    UnsupportedError
        If the model does not run on the meta device.
    """
    twin = _on_meta(model)
    modules = dict(twin.get_submodule(network).named_modules())
    norms = {id(m.running_mean): path for path, m in modules.items() if isinstance(m, _BatchNorm)}
    norms.pop(id(None), None)  # those that keep no statistics
    convs = {id(m.weight): path for path, m in modules.items() if isinstance(m, _CONVOLUTIONS)}
    trace = _Trace()
    calls: dict[str, list[tuple[Any, Any]]] = {}
    watched = [path for path in modules if any(path == norm or path.startswith(f"{norm}.") for norm in norms.values())]
    for path in watched:
        modules[path].register_forward_hook(_recorder(calls.setdefault(path, [])))
    try:
        with torch.inference_mode(), trace:
            is_output = set(map(id, _tensors(twin(images))))
    except FAILURES as err:
        msg = f"This {type(model).__name__} was changed so that it cannot be traced on the meta device: {err}."
        raise UnsupportedError(msg) from err
    return list(_folds(trace, modules, norms, convs, calls, is_output))


def fold(network: nn.Module, folds: Sequence[Fold]) -> None:
    """Fold batch norms into the convolutions before them, in place. The norms are replaced by what is left of them."""
    for each in folds:
        conv: Any = network.get_submodule(each.conv)
        norm: Any = network.get_submodule(each.norm)
        _scale(conv, norm)
        rest = [norm.get_submodule(name) for name in each.rest]
        rest = [module for module in rest if not isinstance(module, nn.Identity)]
        network.set_submodule(each.norm, rest[0] if len(rest) == 1 else nn.Sequential(*rest))


def _scale(conv: Any, norm: Any) -> None:
    dtype = conv.weight.dtype
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
        shift = shift * scale if norm.bias is None else shift * scale + norm.bias.double()
        weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = nn.Parameter(weight.to(dtype))
    conv.bias = nn.Parameter(shift.to(dtype))


def _folds(
    trace: "_Trace",
    modules: dict[str, nn.Module],
    norms: dict[int, str],
    convs: dict[int, str],
    calls: dict[str, list[tuple[Any, Any]]],
    is_output: set[int],
) -> Iterator[Fold]:
    for tensors, made in trace.operations:
        norm = next((norms[id(t)] for t in tensors if id(t) in norms), None)
        if norm is None or trace.reads[id(modules[norm].running_mean)] != 1:
            continue
        y = tensors[0]
        made_from = trace.made_from.get(id(y), [])
        conv = next((convs[id(t)] for t in made_from[1:2] if id(t) in convs), None)
        if conv is None or any(trace.reads[id(t)] != 1 for t in (y, made_from[1])) or id(y) in is_output:
            continue
        bias: Any = modules[conv].bias
        if [id(t) for t in made_from[2:]] != ([] if bias is None else [id(bias)]):
            continue
        rest = _rest(modules[norm], norm, calls, made[0])
        if rest is not None:
            yield Fold(conv, norm, rest)


def _rest(module: nn.Module, path: str, calls: dict[str, list[tuple[Any, Any]]], y: Any) -> tuple[str, ...] | None:
    """Return the children that a norm runs after the norm itself; ``None`` if it does something else beside."""
    if len(calls[path]) != 1:  # something else computes with its tensors
        return None
    ((_, output),) = calls[path]
    rest = []
    for name, _ in module.named_children():
        for given, result in calls[f"{path}.{name}"]:
            if given is y:
                y = result
                rest.append(name)
    return tuple(rest) if y is output else None


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of a forward pass.

    Attributes
    ----------
    operations
        The tensors that each operation read, and those that it returned.
    made_from
        The tensors that the operation read that made a tensor, by the id of that one.
    reads
        How many operations read a tensor, by its id.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Holding the tensors keeps their ids from being used again.
        self.operations: list[tuple[list[Tensor], list[Tensor]]] = []
        self.made_from: dict[int, list[Tensor]] = {}
        self.reads: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        read, made = list(_tensors((*args, *(kwargs or {}).values()))), list(_tensors(output))
        self.operations.append((read, made))
        self.reads.update(set(map(id, read)))
        self.made_from.update((id(tensor), read) for tensor in made)
        return output


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, those in lists and dicts included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _recorder(calls: list[tuple[Any, Any]]) -> Any:
    def record(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append((args[0] if args else None, output))

    return record


def _on_meta(module: nn.Module) -> nn.Module:
    """Return a copy without storage, and without the hooks of users."""
    twins: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        twins[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    twin = copy.deepcopy(module, twins)
    for part in twin.modules():
        part._forward_hooks, part._forward_pre_hooks = OrderedDict(), OrderedDict()  # noqa: SLF001
    return twin
