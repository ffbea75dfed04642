"""Anatomy: the stage, layer and block that a parameter belongs to."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from autobackbone.unwrapping import unwrap

NativeMaps = Callable[[nn.Module, Tensor], list[Tensor]]
_HEAD = "\0"  # no pattern matches it: it stands for what comes after the network


def layers(network: nn.Module) -> tuple[dict[str, int], int] | None:
    """Return the layer of each parameter as the library counts them, from the stem at 0, and the layer of a head.

    ``None`` if the library does not say. The head's layer is the one after the last, even if there is no head.
    """
    layer_of = _grouped(network, coarse=False)
    return None if layer_of is None else (layer_of, layer_of.pop(_HEAD))


def stem(network: nn.Module) -> set[str]:
    """Return the parameters of the stem; empty if the library does not separate it from the first stage."""
    layer_of = _grouped(network, coarse=True) or _grouped(network, coarse=False) or {}
    return {name for name, layer in layer_of.items() if layer == 0 and name != _HEAD}


def stages(body: nn.Module, native_maps: NativeMaps, shape: tuple[int, ...]) -> tuple[dict[str, int], list[str]]:
    """Return the native level that each parameter belongs to, and the names of the modules that are called.

    Parameters
    ----------
    body
        What a source built.
    native_maps
        Takes the body and images. Returns the map of every native level.
    shape
        Shape ``(B, C, H, W)`` of images for the body.

    Returns
    -------
    dict, list
        For each parameter name, the shallowest level whose map depends on it; the deepest if no map does, as for a
        final norm. And the names of modules, in the order of their first calls.
    """
    called: dict[str, None] = {}
    muted = [(m, m._forward_hooks, m._forward_pre_hooks) for m in body.modules()]  # noqa: SLF001 - users' own
    for name, module in body.named_modules():
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()  # noqa: SLF001
        module.register_forward_pre_hook(lambda _module, _args, name=name: called.setdefault(name))
    like = next(body.parameters())
    try:
        # Nothing is computed: every tensor is replaced by one that has a shape and no data.
        with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode(mode=False), torch.enable_grad():
            tensors = {**dict(body.named_parameters()), **dict(body.named_buffers())}
            fake: Any = {
                f"body.{name}": torch.empty(t.shape, dtype=t.dtype, device=t.device) for name, t in tensors.items()
            }
            parameters = {name: fake[f"body.{name}"].requires_grad_() for name, _ in body.named_parameters()}
            images = torch.empty(shape, dtype=like.dtype, device=like.device)
            # A module that is in several places must get its tensors back: each is swapped once.
            tracer = _Tracer(body, native_maps)
            level_of: dict[str, int] = functional_call(tracer, fake, (images, parameters), tie_weights=False)
    finally:
        for module, after, before in muted:
            module._forward_hooks, module._forward_pre_hooks = after, before  # noqa: SLF001
    return level_of, list(called)


def list_blocks(body: nn.Module, layer_of: dict[str, int], called: list[str]) -> Iterator[nn.Module]:
    """Yield the largest module of each layer after the stem, in order.

    Parameters
    ----------
    body
        What a source built.
    layer_of
        The layer of each parameter name.
    called
        Names of the modules that are called. The others are containers that are only reached into.
    """
    largest: dict[int, tuple[int, nn.Module]] = {}
    for name, module in body.named_modules():
        sizes = {f"{name}.{key}": p.numel() for key, p in module.named_parameters()}
        its_layers = {layer_of[key] for key in sizes if key in layer_of}
        if name in called and len(its_layers) == 1 and 0 not in its_layers:
            (layer,) = its_layers
            size = sum(sizes.values())
            if layer not in largest or size > largest[layer][0]:  # of equal ones, the outermost
                largest[layer] = size, module
    for layer in sorted(largest):
        yield largest[layer][1]


class _Tracer(nn.Module):
    """Finds the parameters that each native level depends on. The backward pass is a part of the call."""

    def __init__(self, body: nn.Module, native_maps: NativeMaps) -> None:
        super().__init__()
        self.body = body
        self.native_maps = native_maps

    def forward(self, images: Tensor, parameters: dict[str, Tensor]) -> dict[str, int]:
        maps = self.native_maps(unwrap(self.body), images)
        level_of: dict[str, int] = {}
        for level, y in enumerate(maps):
            rest = {name: p for name, p in parameters.items() if name not in level_of}
            if rest:
                ones = torch.ones_like(y)
                grads: tuple[Tensor | None, ...] = torch.autograd.grad(
                    y, list(rest.values()), ones, retain_graph=True, allow_unused=True
                )
                level_of |= {name: level for name, grad in zip(rest, grads, strict=True) if grad is not None}
        return {name: level_of.get(name, len(maps) - 1) for name in parameters}


def _grouped(network: nn.Module, *, coarse: bool) -> dict[str, int] | None:
    """Return the group of each parameter by timm's ``group_matcher``, and that of whatever follows the network."""
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None:
        return None
    try:
        patterns = matcher(coarse=coarse)
    except (AssertionError, NotImplementedError):
        return None
    names = [*(name for name, _ in network.named_parameters()), _HEAD]
    return dict(group_with_matcher([(name, None) for name in names], patterns, reverse=True))
