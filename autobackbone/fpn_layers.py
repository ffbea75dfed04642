"""Layers of a feature pyramid: torchvision's FPN and its extra levels, with keys that cannot clash."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from autobackbone.errors import ConfigError
from autobackbone.levels import FeatureLevel, ceil_div
from autobackbone.values import shown
from autobackbone.weights.rules import StateDict


def make_fpn(in_channels: Sequence[int], out_channels: int, extra_blocks: str | ExtraFPNBlock | None) -> nn.Module:
    """Return torchvision's FPN for maps of these channels, fine to coarse."""
    fpn: nn.Module = FeaturePyramidNetwork(list(in_channels), out_channels, _extra_block(extra_blocks, out_channels))
    return fpn


def make_extra_levels(channels: int, extra_blocks: str | ExtraFPNBlock | None) -> nn.Module:
    """Return what adds the extra levels to maps of equal channels, without an FPN."""
    return _ExtraLevels(_extra_block(extra_blocks, channels))


def map_key(index: int) -> str:
    """Return the key of a backbone's map. Extra blocks have keys such as p6, which must differ from these."""
    return f"backbone.{index}"


def extra_strides(
    fpn: Any, strides: Sequence[int], channels: Sequence[int], out_channels: int, like: Tensor
) -> list[int]:
    """Return the strides of the extra levels, from the shapes of their maps.

    Parameters
    ----------
    fpn
        What `make_fpn` or `make_extra_levels` returned.
    strides, channels
        Of the maps that it takes, fine to coarse.
    out_channels
        Of the maps that it returns.
    like
        A tensor of its device and type.

    Raises
    ------
    ConfigError
        If the extra block does not take these maps, or gives two levels one name.
    """
    cells, block = 64, fpn.extra_blocks
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        maps = OrderedDict[str, Tensor]()
        for i, (stride, width) in enumerate(zip(strides, channels, strict=True)):
            size = ceil_div(cells * strides[-1], stride)
            maps[map_key(i)] = like.new_empty(2, width, size, size)
        try:
            with _outputs(block) as outputs:
                sizes = [y.shape[-1] for y in fpn(maps).values()]
        except (RuntimeError, TypeError, ValueError) as err:
            msg = (
                f"extra_blocks: the {type(block).__name__} does not take these maps, of {out_channels} channels: {err}"
            )
            raise ConfigError(msg) from err
    if len(outputs) > len(sizes):
        kind = type(block).__name__
        msg = f"extra_blocks: the {kind} calls two of its levels by one name; each needs a name of its own."
        raise ConfigError(msg)
    return [strides[-1] * cells // size for size in sizes[len(strides) :]]


def describe_levels(
    names: Sequence[str], strides: Sequence[int], origins: Sequence[FeatureLevel], out_channels: int | None
) -> tuple[FeatureLevel, ...]:
    """Return the levels of a pyramid.

    Parameters
    ----------
    names, strides
        Of its maps, fine to coarse.
    origins
        The backbone's levels, fine to coarse. Extra levels are made from the last one.
    out_channels
        Of the FPN; ``None`` if there is none.
    """
    levels = []
    for i, (name, stride) in enumerate(zip(names, strides, strict=True)):
        origin = origins[min(i, len(origins) - 1)]
        channels = out_channels or origin.channels
        module, method = f"fpn.layer_blocks.{i}", "fpn"
        if i >= len(origins):
            module = "fpn.extra_blocks"
        elif out_channels is None:
            module, method = origin.module, origin.method
        levels.append(FeatureLevel(name, origin.index, channels, stride, module, origin.exact, method))
    return tuple(levels)


class _ExtraLevels(nn.Module):
    """Only the extra levels of an FPN."""

    def __init__(self, extra_blocks: ExtraFPNBlock | None) -> None:
        super().__init__()
        self.extra_blocks = extra_blocks

    def forward(self, maps: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
        """Return the maps and the extra ones."""
        if self.extra_blocks is None:
            return maps
        values = list(maps.values())
        results, names = self.extra_blocks(list(values), values, list(maps))
        return OrderedDict(zip(names, results, strict=True))


@contextmanager
def _outputs(block: Any) -> Iterator[list[Tensor]]:
    """Collect the maps that a block returns, those under the same name as well."""
    outputs: list[Tensor] = []
    if block is None:
        yield outputs
        return
    handle = block.register_forward_hook(lambda _module, _args, result: outputs.extend(result[0]))
    try:
        yield outputs
    finally:
        handle.remove()


def _extra_block(extra_blocks: str | ExtraFPNBlock | None, channels: int) -> ExtraFPNBlock | None:
    if extra_blocks is None or isinstance(extra_blocks, ExtraFPNBlock):
        return extra_blocks
    name = extra_blocks if isinstance(extra_blocks, str) else None
    if name == "pool":
        return LastLevelMaxPool()
    if name == "p6p7":
        return LastLevelP6P7(channels, channels)
    msg = f"extra_blocks must be 'pool', 'p6p7', a torchvision ExtraFPNBlock, or None, got {shown(extra_blocks)}."
    raise ConfigError(msg)


def from_torchvision(network: str, state: StateDict, _target: StateDict) -> StateDict | None:
    """Rename the state dict of a torchvision FPN backbone: its body is the network here."""
    if not any(key.startswith("body.") for key in state) or not any(key.startswith("fpn.") for key in state):
        return None
    renamed = {re.sub(r"^body\.", network, key): value for key, value in state.items()}
    # Before torchvision 0.13, convolutions were not wrapped; the published files are from then.
    return {re.sub(r"^(fpn\.\w+_blocks\.\d+)\.(\w+)$", r"\1.0.\2", key): value for key, value in renamed.items()}
