"""Building a timm network, as often as needed, and timm's own conversion of checkpoints."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autobackbone.sources.dinov3.names import to_timm
from autobackbone.sources.meta import FAILURES
from autobackbone.sources.timm.arguments import translated_errors
from autobackbone.sources.timm.dilation import create_model
from autobackbone.sources.timm.network import Levels
from autobackbone.sources.timm.weights import head_prefixes
from autobackbone.weights.building import Built, SkipInit, unexpected_keys
from autobackbone.weights.materialize import init_buffers_on_load
from autobackbone.weights.rules import CheckpointRules, StateDict


@dataclass(frozen=True)
class TimmBuilder:
    """Builds one timm network, again and again.

    Attributes
    ----------
    name, cfg, overlay, arguments
        Arguments of ``timm.create_model``: the model name, ``pretrained_cfg``, ``pretrained_cfg_overlay``, and others.
    architecture
        The name in timm's registry.
    classifier
        What timm calls the classifier of the published weights.
    indices
        Native levels to return, ascending; the network is cut at the last one. ``None``: a whole, pooled network.
    norm
        Take the maps through the final norm.
    patch
        Pixels per token, if the network is asked for tokens; else ``None``.
    """

    name: str
    cfg: Mapping[str, Any] | None
    overlay: Mapping[str, Any]
    arguments: Mapping[str, Any]
    architecture: str
    classifier: Any
    indices: tuple[int, ...] | None
    norm: bool
    patch: int | None

    def __call__(self) -> nn.Module:
        """Return the network with random weights, cut."""
        network: nn.Module = self.create()
        self._cut(network)
        return network

    def build(self, weights: Mapping[str, Any] | None = None) -> Built:
        """Build the model that gives the maps, or the pooled output.

        Parameters
        ----------
        weights
            Where published weights are, in the terms of timm's pretrained_cfg; ``None`` for random ones.

        Raises
        ------
        ConfigError
            If timm cannot build it with these arguments.
        """
        with translated_errors(self.architecture, self.arguments):
            network = self.create(weights, has_published_head=weights is not None)
        names = frozenset(network.state_dict(keep_vars=True))  # without copies of the tensors, only to name them
        heads = head_prefixes(self.architecture, self.classifier, network, names)
        rules = CheckpointRules(
            head_prefixes=heads,
            pruned_names=names,
            converters=(partial(_convert, self, heads),),
            build=self,
        )
        init_buffers_on_load(network, rules)
        return Built(self._cut(network), network, rules)

    def _cut(self, network: nn.Module) -> nn.Module:
        """Cut a network in place at its deepest level, and return the module that gives its maps."""
        if self.indices is None:
            return network
        return Levels(network, self.indices, norm=self.norm, patch=self.patch)

    def create(self, weights: Mapping[str, Any] | None = None, *, has_published_head: bool = False) -> Any:
        """Return the network before it is cut. timm loads a published head with all its classes, or not at all."""
        overlay = dict(self.overlay)
        if weights is not None:  # these, whatever else the config names
            overlay |= {"source": "", "custom_load": False, **weights}
        network = create_model(
            self.name,
            pretrained=weights is not None,
            pretrained_cfg=None if self.cfg is None else dict(self.cfg),
            pretrained_cfg_overlay=overlay,
            **{k: v for k, v in self.arguments.items() if k != "num_classes" or not has_published_head},
        )
        network.pretrained_cfg["state_dict"] = None  # else it would be kept for as long as the model
        return network


def _convert(builder: TimmBuilder, heads: tuple[str, ...], state: StateDict, target: StateDict) -> StateDict | None:
    """Let timm convert a state dict of another library, size or number of channels.

    timm's conversions belong to its models' builders. So one more network is built with the state dict, not strictly,
    and the tensors that were loaded into it are the conversion.
    """
    state = {
        name: value
        for name, value in (to_timm(state, target) or state).items()
        if not name.startswith(heads) or (name in target and target[name].shape == value.shape)
    }
    if not state:
        return None  # timm would fetch published weights
    weights = {"state_dict": state, "num_classes": -1, "classifier": (), "label_offset": 0}
    with torch.device("cpu"), _silence(), unexpected_keys() as unexpected, SkipInit() as mode:
        try:
            twin = builder.create(weights)
        except (*FAILURES, OSError):  # not of a kind that timm knows, or a hybrid whose parts it wants from the Hub
            return None
    loaded = {name: t.detach() for name, t in twin.state_dict(keep_vars=True).items() if mode.is_loaded(t)}
    return loaded | {name: torch.empty(0) for name in unexpected}


@contextmanager
def _silence() -> Iterator[None]:
    """Keep timm's builder from warning in this thread of conversions that may well not fit."""
    logger = logging.getLogger("timm.models._builder")
    thread = threading.get_ident()

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(is_elsewhere)
