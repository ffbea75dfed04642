"""A timm model that is cut at its deepest requested level and returns the maps of the requested levels."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.errors import UnsupportedError

# What timm calls the tokens before those of patches, in their order.
_PREFIX_TOKENS = {"class": "cls_token", "distillation": "dist_token", "register": "reg_token"}


class Levels(nn.Module):
    """A timm model that is cut at its deepest requested level and returns the maps of the requested levels.

    Parameters
    ----------
    model
        A timm model. It is pruned in place.
    indices
        Native levels, ascending.
    norm
        Take the maps through the model's final norm.
    patch
        Pixels per token, if the model is asked for tokens, which are then laid out as a map; else ``None``.

    Attributes
    ----------
    prefix_tokens : dict
        How many tokens of each kind the model gives beside its maps, in their order.
    """

    def __init__(
        self, model: nn.Module, indices: Sequence[int], *, norm: bool = False, patch: int | None = None
    ) -> None:
        super().__init__()
        prune: Any = model.prune_intermediate_layers
        self.indices: list[int] = prune(list(indices), prune_norm=not norm)
        self.model = model
        self.norm = norm
        self.patch = patch
        self.prefix_tokens = prefix_tokens(model)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to one ``(B, C_l, H_l, W_l)`` map per index."""
        return self._maps(x, self.indices, norm=self.norm)

    def forward_tokens(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Map images to the map of each index and its ``(B, N, C_l)`` prefix tokens."""
        pairs = self._intermediates(x, self.indices, norm=self.norm, return_prefix_tokens=True)
        return [(self._laid_out(y, x), tokens) for y, tokens in pairs]

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Map images to the map of every native level up to the deepest index, without the final norm."""
        return self._maps(x, range(max(self.indices) + 1), norm=False)

    def _maps(self, x: Tensor, indices: Sequence[int], *, norm: bool) -> list[Tensor]:
        return [self._laid_out(y, x) for y in self._intermediates(x, indices, norm=norm)]

    def _intermediates(self, x: Tensor, indices: Sequence[int], *, norm: bool, **options: bool) -> list[Any]:
        fmt = "NCHW" if self.patch is None else "NLC"
        return self.model.forward_intermediates(  # type: ignore[operator, no-any-return]
            x, indices=list(indices), norm=norm, output_fmt=fmt, intermediates_only=True, **options
        )

    def _laid_out(self, y: Tensor, x: Tensor) -> Tensor:
        """Return what the model gave as a map."""
        if self.patch is None:
            return y
        height, width = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        return y.transpose(1, 2).reshape(y.shape[0], -1, height, width)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in training, as the timm model itself does."""
        try:
            self.model.set_grad_checkpointing(enable)  # type: ignore[operator]
        except (AssertionError, AttributeError, NotImplementedError) as err:
            msg = f"timm's {type(self.model).__name__} has no gradient checkpointing; train without it."
            raise UnsupportedError(msg) from err


def prefix_tokens(model: Any) -> dict[str, int]:
    """Return how many tokens of each kind a model can give beside its maps, in their order."""
    if "return_prefix_tokens" not in signature(model.forward_intermediates).parameters:
        return {}
    holder = getattr(model, "embeds", model)
    tokens = {kind: getattr(holder, name, None) for kind, name in _PREFIX_TOKENS.items()}
    return {kind: token.shape[-2] for kind, token in tokens.items() if isinstance(token, Tensor)}


def unused_parameters(levels: nn.Module, x: Tensor, *, last_only: bool = False) -> list[str]:
    """Return the names of the parameters that require a gradient and get none from the sum of the maps."""
    named = [(name, p) for name, p in levels.named_parameters() if p.requires_grad]
    maps = levels(x)[-1:] if last_only else levels(x)
    weights, ones = [p for _, p in named], [torch.ones_like(m) for m in maps]
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(maps, weights, ones, allow_unused=True)
    return [name for (name, _), grad in zip(named, grads, strict=True) if grad is None]
