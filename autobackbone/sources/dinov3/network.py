"""What DINOv3's ViTs and ConvNeXts have in common."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autobackbone.levels import NativeLevel
from autobackbone.sources.seam import Attachment

WITH_LAST = (99999,)  # in timm's patterns: belongs to the layer before


@dataclass(frozen=True)
class Variant:
    """One of the two kinds of network: ViT or ConvNeXt.

    Attributes
    ----------
    config_class
        transformers' config.
    create
        Creates transformers' model from its config.
    levels_network, pooled_network
        Classes that wrap the model's parts: one returns maps by level, the other pooled features.
    has_final_norm
        Whether the final norm can be applied to maps.
    published_arguments
        Takes the name of a published model. Returns the arguments of its config.
    native_levels
        Takes a config. Returns its native levels.
    prefix_tokens
        Takes a config. Returns how many tokens of each kind the network gives beside its maps, in their order.
    shallow_arguments
        Takes arguments, the full config and a number of levels. Returns the arguments of a network with these levels.
    tensor_names
        Takes the tensor names of a shallow network and the full config. Returns the tensor names of the full network.
    """

    config_class: Any
    create: Callable[[Any], Any]
    levels_network: Callable[..., nn.Module]
    pooled_network: Callable[..., nn.Module]
    has_final_norm: bool
    published_arguments: Callable[[str], dict[str, Any]]
    native_levels: Callable[[Any], tuple[NativeLevel, ...]]
    prefix_tokens: Callable[[Any], dict[str, int]]
    shallow_arguments: Callable[[dict[str, Any], Any, int], dict[str, Any]]
    tensor_names: Callable[[Sequence[str], Any], Iterator[str]]


def parts_of(encoder: nn.Module) -> nn.ModuleDict:
    """Return the children of an encoder under their names, in a module that transformers does not take for its own."""
    return nn.ModuleDict(dict(encoder.named_children()))


class Network(nn.Module):
    """A network that runs block by block. Blocks can be recomputed in the backward pass."""

    grad_checkpointing = False

    @property
    def prefix_tokens(self) -> dict[str, int]:
        """How many tokens of each kind it gives beside its maps, in their order."""
        return {}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that map parameter names to layers, as timm's models do."""
        raise NotImplementedError

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of every native level, without the final norm."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, as timm's models do."""
        return set()

    def run(self, block: nn.Module, x: Tensor, **kwargs: Any) -> Tensor:
        """Run a block, under checkpointing if that is on."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            block = partial(checkpoint, block, use_reentrant=False)  # type: ignore[assignment]
        return block(x, **kwargs)  # type: ignore[no-any-return]


class Pooled(Network):
    """Pooling and a head around the features, with the members that timm's models have."""

    num_features: int
    autobackbone: Attachment  # set when it is built

    def add_head(self, num_classes: int, drop_rate: float) -> None:
        """Add dropout and a head."""
        self.head_hidden_size = self.num_features
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new linear one with `num_classes` outputs, or by none if that is 0."""
        self.num_classes = num_classes
        if num_classes == 0:
            self.head: nn.Module = nn.Identity()
            return
        like = next(self.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.head = head

    def get_classifier(self) -> nn.Module:
        """Return the head; ``nn.Identity`` if there is none."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features before pooling."""
        raise NotImplementedError

    def pool(self, features: Tensor) -> Tensor:
        """Pool features to ``(B, num_features)``."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features, and classify them unless `pre_logits`."""
        pooled = self.head_drop(self.pool(features))
        return pooled if pre_logits else self.head(pooled)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` images to ``(B, num_features)``, or to ``(B, num_classes)`` with a head."""
        return self.forward_head(self.forward_features(x))
