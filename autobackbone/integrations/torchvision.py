"""Backbones where torchvision's models take a network that returns maps by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError
from autobackbone.fpn import FeaturePyramid
from autobackbone.values import as_text, did_you_mean, shown


class FeatureExtractor(nn.Module):
    """The maps of a backbone or pyramid by names of your choice, as from torchvision's `create_feature_extractor`.

    Parameters
    ----------
    backbone
        Of any levels.
    return_nodes
        Levels to return, in order, each with its name in the output; without names of their own, the levels' own. A
        level goes by its name (``"c5"``, ``"p5"``) or by that of the module that returns it (``"layer4"``).

    Attributes
    ----------
    out_channels : list of int
        Channels of each map, in order.
    strides : list of int
        Pixels per cell of each map, in order.

    Raises
    ------
    ConfigError
        If there is no such level, if it is named twice, or if two have one name in the output.
    """

    def __init__(
        self, backbone: FeatureBackbone | FeaturePyramid, return_nodes: Mapping[str, str] | Sequence[str] | None = None
    ) -> None:
        super().__init__()
        value: Any = backbone
        if not isinstance(value, FeatureBackbone | FeaturePyramid):
            msg = f"backbone must be a FeatureBackbone or a FeaturePyramid, got a {type(value).__name__}."
            raise ConfigError(msg)
        levels = backbone.output_shape()
        by_module: dict[str, list[str]] = {}
        for level in backbone.levels:
            by_module.setdefault(level.module, []).append(level.name)
        self.backbone = backbone
        nodes = _as_nodes(list(levels) if return_nodes is None else return_nodes)
        self._outputs: dict[str, str] = {}  # name of the level: its name in the output
        for node, name in nodes.items():
            found = node if node in levels else _only(by_module.get(node, []), node, [*levels, *by_module])
            if found in self._outputs:
                msg = f"return_nodes has the level {found!r} twice."
                raise ConfigError(msg)
            self._outputs[found] = name
        self.out_channels = [levels[name].channels for name in self._outputs]
        self.strides = [levels[name].stride for name in self._outputs]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the maps, by name and in the order of `return_nodes`; errors are those of the backbone."""
        maps = self.backbone(x) if isinstance(self.backbone, FeaturePyramid) else self.backbone.forward_dict(x)
        return {name: maps[level] for level, name in self._outputs.items()}


def _as_nodes(given: object) -> dict[str, str]:
    nodes = given if isinstance(given, Mapping) else None
    if nodes is None and isinstance(given, list | tuple):
        nodes = {as_text(name): name for name in given}
        if len(nodes) < len(given) and None not in nodes:
            msg = f"return_nodes={shown(given)} has a name twice."
            raise ConfigError(msg)
    if not nodes or None in map(as_text, (*nodes, *nodes.values())):
        msg = f"return_nodes must be names of levels, or a mapping of them to other names, got {shown(given)}."
        raise ConfigError(msg)
    if len(set(nodes.values())) < len(nodes):
        msg = f"return_nodes={shown(given)} gives two levels one name."
        raise ConfigError(msg)
    return dict(nodes)


def _only(names: Sequence[str], node: str, choices: Sequence[str]) -> str:
    """Return the one level of a module."""
    if len(names) == 1:
        return names[0]
    if names:
        msg = f"return_nodes: {node!r} returns the levels {', '.join(names)}; name one of these."
    else:
        known = f"the levels are {', '.join(choices)}."
        msg = f"return_nodes: there is no level {node!r}; {did_you_mean(node, choices, known)}"
    raise ConfigError(msg)
