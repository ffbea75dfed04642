"""From the meta device to memory: loading models that were created without storage, and their other tensors."""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.errors import WeightsError
from autobackbone.weights.building import Built, SkipInit, build_loaded
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import apply_weights, is_finite, load_part, match_part
from autobackbone.weights.matching import Match
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import COUNTER, CheckpointRules


def init_buffers_on_load(network: nn.Module, rules: CheckpointRules) -> None:
    """Make ``load_state_dict`` compute the non-persistent buffers too, if a network is on the meta device."""
    first = next(network.parameters(), None)
    if first is not None and first.is_meta:
        network.register_load_state_dict_post_hook(partial(_after_loading, rules))  # type: ignore[no-untyped-call]


def init_buffers(network: nn.Module, rules: CheckpointRules) -> None:
    """Compute the tensors of a network that no checkpoint has, as the library computes them, in place.

    Raises
    ------
    WeightsError
        If the network was changed since it was created.
    """
    stored = network.state_dict().keys()
    names = [name for name, _ in network.named_buffers(remove_duplicate=False) if name not in stored]
    if not names and not any(map(_constants, network.modules())):
        return
    with torch.device("cpu"), torch.inference_mode(mode=False), SkipInit():
        twin = _twin(network, rules)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    for path, module, other in _pairs(network, twin):
        for name, old in module.named_buffers(recurse=False):
            if f"{path}.{name}".lstrip(".") not in stored:
                new = other.get_buffer(name)
                dtype = old.dtype if old.is_floating_point() else new.dtype
                setattr(module, name, new.to(device if old.is_meta else old.device, dtype))
        _take_constants(module, other)


def load_on_meta(network: nn.Module, match: Match, checkpoint: Checkpoint, rules: CheckpointRules) -> WeightsReport:
    """Give a network on the meta device memory on the default device, and load into it what fits.

    What the checkpoint lacks is initialized by the network's own code. The parameters are new ones.

    Raises
    ------
    WeightsError
        If the network was changed since it was created.
    """
    reports: list[WeightsReport] = []

    def create(loading: AbstractContextManager[Any]) -> Built:
        with loading:
            twin = _twin(network, rules)
        reports.append(apply_weights(twin, match, checkpoint, rules, within=loading))
        return Built(twin, twin, rules)

    pairs = _pairs(network, build_loaded(create).module)
    nonfinite = []
    for path, module, other in pairs:
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, old in tensors:
            full = f"{path}.{name}".lstrip(".")
            if not old.is_meta and full not in match.loadable:
                continue  # it has values, and the checkpoint has none for it
            new = getattr(other, name).detach()  # a parameter there, if no output depends on it
            new = new.to(old.dtype) if old.is_floating_point() else new
            if full in match.loadable and not is_finite(new):
                nonfinite.append(full)
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(module, name, new)
        _take_constants(module, other)
    return replace(reports[-1], nonfinite=tuple(nonfinite))


def load_matched(
    network: nn.Module,
    pyramid: nn.Module | None,
    match: Match,
    checkpoint: Checkpoint,
    rules: CheckpointRules,
    *,
    strict: bool = True,
) -> WeightsReport:
    """Load a checkpoint that was matched to a network into that, and into a pyramid over it if there is one.

    Raises
    ------
    WeightsMismatchError
        If the checkpoint has a pyramid that does not fit.
    WeightsError
        If the network is on the meta device, and was changed since it was created.
    """
    values = {}
    if pyramid is not None:
        entry, prefix = match.entry, match.prefix
        values = match_part(pyramid, "pyramid", checkpoint, entry=entry, prefix=prefix, strict=strict)
    if rules.build is not None and any(t.is_meta for t in network.state_dict().values()):
        report = load_on_meta(network, match, checkpoint, rules)
        if pyramid is not None:
            materialize(pyramid)
    else:
        report = apply_weights(network, match, checkpoint, rules)
    return report if pyramid is None else load_part(pyramid, "pyramid", values, report)


def materialize(part: nn.Module) -> None:
    """Give a part that is made of torch's own layers memory on the default device, initialized by their own code."""
    part.to_empty(device=torch.get_default_device())
    for module in part.modules():
        initialize: Any = getattr(module, "reset_parameters", None)
        if initialize is not None:
            initialize()


def _after_loading(rules: CheckpointRules, network: nn.Module, _: object) -> None:
    if not any(p.is_meta for p in network.parameters()):
        init_buffers(network, rules)


def _take_constants(module: nn.Module, other: nn.Module) -> None:
    for name, value in _constants(module).items():
        if value.is_meta:
            setattr(module, name, vars(other)[name])


def _pairs(network: nn.Module, twin: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """Return path, module and its twin, of all modules that have tensors of their own."""
    twins = dict(twin.named_modules())
    pairs = []
    for path, module in network.named_modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False), *_constants(module)]
        if tensors and path not in twins:
            raise WeightsError(_changed(network, path))
        if tensors:
            pairs.append((path, module, twins[path]))
    return pairs


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that are plain attributes, which moving a module leaves where they are."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def _changed(network: nn.Module, first: str) -> str:
    return (
        f"This {type(network).__name__} was changed since it was created (first {first!r}), so that the tensors "
        "that no checkpoint holds are not known; create it anew, on a device with memory, or load before changing it."
    )


def _twin(network: nn.Module, rules: CheckpointRules) -> nn.Module:
    """Build a network once more, and see that it is the same."""
    assert rules.build is not None, "every backbone knows how it was built"
    twin = rules.build()
    # A frozen batch norm in the place of another counts nothing.
    shapes, others = (
        {n: t.shape for n, t in m.state_dict().items() if not n.endswith(COUNTER)} for m in (network, twin)
    )
    if shapes != others:
        first = next(n for n in {**shapes, **others} if shapes.get(n) != others.get(n))
        raise WeightsError(_changed(network, first))
    return twin
