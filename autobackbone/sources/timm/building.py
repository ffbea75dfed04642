"""Building a timm model, as often as it takes, and what timm's builders make of checkpoints."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autobackbone.sources.dinov3.names import StateDict, to_timm
from autobackbone.sources.timm.dilation import create_model
from autobackbone.sources.timm.measure import FAILURES
from autobackbone.sources.timm.network import Levels
from autobackbone.weights.building import SkipInit, unexpected_keys


@dataclass(frozen=True)
class Recipe:
    """How to make a timm model once more: the arguments of ``timm.create_model``, and where it is cut."""

    name: str
    cfg: Mapping[str, Any] | None
    overlay: Mapping[str, Any]
    arguments: Mapping[str, Any]
    indices: tuple[int, ...] | None
    norm: bool
    patch: int | None

    def __call__(self) -> nn.Module:
        """Return the model without weights, cut."""
        network: nn.Module = self.create()
        self.cut(network)
        return network

    def cut(self, network: nn.Module) -> nn.Module:
        """Cut a model in place at its deepest level, and return what gives its maps; a whole model as it is."""
        if self.indices is None:
            return network
        return Levels(network, self.indices, norm=self.norm, patch=self.patch)

    def create(self, weights: Mapping[str, Any] | None = None, *, has_own_head: bool = False) -> Any:
        """Return the whole model.

        Parameters
        ----------
        weights
            Where they are, in the terms of timm's pretrained_cfg; ``None`` for random ones.
        has_own_head
            With the head that the weights were made with: timm loads that whole or not at all.
        """
        overlay = dict(self.overlay)
        if weights is not None:  # these, whatever else the config names
            overlay |= {"source": "", "custom_load": False, **weights}
        network = create_model(
            self.name,
            pretrained=weights is not None,
            pretrained_cfg=None if self.cfg is None else dict(self.cfg),
            pretrained_cfg_overlay=overlay,
            **{k: v for k, v in self.arguments.items() if k != "num_classes" or not has_own_head},
        )
        network.pretrained_cfg["state_dict"] = None  # else it would be kept for as long as the model
        return network


def convert(recipe: Recipe, heads: tuple[str, ...], state: StateDict, own: StateDict) -> StateDict | None:
    """Let timm make a state dict of another library, size or number of channels one of its own.

    timm's conversions belong to its models' builders; so one more model is built with the state dict, not strictly,
    and what was loaded is read off.
    """
    state = {
        name: value
        for name, value in (to_timm(state, own) or state).items()
        if not name.startswith(heads) or (name in own and own[name].shape == value.shape)
    }
    if not state:
        return None  # timm would fetch its own
    with torch.device("cpu"), _silence(), unexpected_keys() as left, SkipInit() as mode:
        try:
            twin = recipe.create({"state_dict": state, "num_classes": -1, "classifier": (), "label_offset": 0})
        except (*FAILURES, OSError):  # not of a kind that timm knows, or a hybrid whose parts it wants from the Hub
            return None
    loaded = {name: t.detach() for name, t in twin.state_dict(keep_vars=True).items() if mode.is_loaded(t)}
    return loaded | {name: torch.empty(0) for name in left}


@contextmanager
def _silence() -> Iterator[None]:
    """Keep timm's builder from warning in this thread of what is tried, and may well not fit."""
    logger = logging.getLogger("timm.models._builder")
    thread = threading.get_ident()

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(is_elsewhere)
