"""From the meta device to memory: loading models that were created without storage, and what no checkpoint holds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.errors import ConfigError, WeightsError
from autobackbone.weights.building import SkipInit, build_loaded
from autobackbone.weights.loading import apply_weights, is_finite
from autobackbone.weights.matching import Match, Rules
from autobackbone.weights.report import WeightsReport


def init_non_persistent_buffers(model: nn.Module) -> None:
    """Compute the tensors of a model's backbones that no checkpoint holds, such as tables of positions.

    A backbone that is created on the meta device, and given memory by ``to_empty()``, has parameters and buffers
    without values. A state dict fills those that it holds. The others are computed here, as the library computes them,
    in place of what there is, on the device and in the dtype of what there is.

    Loading a state dict into a backbone that was created on the meta device does this by itself, also under FSDP. Call
    it where a backbone was moved to the meta device later, or where weights are not loaded by ``load_state_dict()``.

    Parameters
    ----------
    model
        A backbone of either kind, or a model with some in it, on any device but meta.

    Raises
    ------
    ConfigError
        If `model` has no backbone of this package in it.
    WeightsError
        If a backbone was changed since it was created, so that it is not known what its tensors were.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, init_non_persistent_buffers
    >>> with torch.device("meta"):
    ...     backbone = create_feature_backbone("dinov3_vits16", out_indices=(0,))
    >>> backbone = backbone.to_empty(device="cpu")
    >>> init_non_persistent_buffers(backbone)
    """
    networks = list(_networks(model))
    if not networks:
        msg = f"{type(model).__name__} has no backbone of this package in it, and its buffers are not known."
        raise ConfigError(msg)
    for network, rules in networks:
        _init_buffers(network, rules)


def watch(network: nn.Module) -> None:
    """Have whatever loads a state dict into a network without storage compute its other tensors as well."""
    if any(p.is_meta for p in network.parameters()):
        network.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]


def load_on_meta(network: nn.Module, match: Match, source: str, rules: Rules) -> WeightsReport:
    """Give a network on the meta device memory on the default device, and load into it what fits.

    What the checkpoint lacks is initialized by the network's own code. The parameters are new ones.

    Raises
    ------
    WeightsError
        If the network was changed since it was created.
    """
    reports: list[WeightsReport] = []

    def create(loading: AbstractContextManager[Any]) -> nn.Module:
        with loading:
            twin = _twin(network, rules)
        reports.append(apply_weights(twin, match, source, rules, within=loading))
        return twin

    twin = build_loaded(create)
    pairs = _pairs(network, twin)
    nonfinite = []
    for path, module, other in pairs:
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, old in tensors:
            full = f"{path}.{name}".lstrip(".")
            if not old.is_meta and full not in match.fitting:
                continue  # it has values, and the checkpoint has none for it
            new = getattr(other, name).detach()  # a parameter there, if no output depends on it
            new = new.to(old.dtype) if old.is_floating_point() else new
            if full in match.fitting and not is_finite(new):
                nonfinite.append(full)
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(module, name, new)
        _take_constants(module, other)
    return replace(reports[-1], nonfinite=tuple(nonfinite))


def materialize(part: nn.Module) -> None:
    """Give a part that is made of torch's own layers memory on the default device, initialized by their own code."""
    part.to_empty(device=torch.get_default_device())
    for module in part.modules():
        initialize: Any = getattr(module, "reset_parameters", None)
        if initialize is not None:
            initialize()


def _after_loading(network: nn.Module, _: object) -> None:
    if not any(p.is_meta for p in network.parameters()):
        _init_buffers(network, vars(network)["checkpoint_rules"])


def _networks(model: nn.Module) -> Iterator[tuple[nn.Module, Rules]]:
    for module in model.modules():
        rules = vars(module).get("checkpoint_rules")
        if isinstance(rules, Rules) and rules.build is not None:
            yield module, rules


def _init_buffers(network: nn.Module, rules: Rules) -> None:
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


def _take_constants(module: nn.Module, other: nn.Module) -> None:
    for name, value in _constants(module).items():
        if value.is_meta:
            setattr(module, name, vars(other)[name])


def _pairs(network: nn.Module, twin: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """Return path, module and its twin, of all modules that have tensors of their own."""
    twins = dict(twin.named_modules())
    pairs = []
    for path, module in network.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False), *_constants(module)]
        if own and path not in twins:
            raise WeightsError(_changed(network, path))
        if own:
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


def _twin(network: nn.Module, rules: Rules) -> nn.Module:
    """Build a network once more, and see that it is the same."""
    assert rules.build is not None, "every backbone knows how it was built"
    twin = rules.build()
    shapes, others = ({n: t.shape for n, t in m.state_dict().items()} for m in (network, twin))
    if shapes != others:
        first = next(n for n in {**shapes, **others} if shapes.get(n) != others.get(n))
        raise WeightsError(_changed(network, first))
    return twin
