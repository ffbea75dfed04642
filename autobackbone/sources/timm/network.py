"""A timm model that is cut at its deepest requested level and returns the maps of the requested levels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.errors import UnsupportedError


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

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to one ``(B, C_l, H_l, W_l)`` map per index."""
        return self._maps(x, self.indices, norm=self.norm)

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Map images to the map of every native level up to the deepest index, without the final norm."""
        return self._maps(x, range(max(self.indices) + 1), norm=False)

    def _maps(self, x: Tensor, indices: Sequence[int], *, norm: bool) -> list[Tensor]:
        fmt = "NCHW" if self.patch is None else "NLC"
        maps: list[Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
            x, indices=list(indices), norm=norm, output_fmt=fmt, intermediates_only=True
        )
        if self.patch is None:
            return maps
        height, width = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        return [y.transpose(1, 2).reshape(y.shape[0], -1, height, width) for y in maps]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in training, as the timm model itself does."""
        try:
            self.model.set_grad_checkpointing(enable)  # type: ignore[operator]
        except (AssertionError, AttributeError, NotImplementedError) as err:
            msg = f"timm's {type(self.model).__name__} has no gradient checkpointing; train without it."
            raise UnsupportedError(msg) from err


def unused_parameters(levels: nn.Module, x: Tensor, *, last_only: bool = False) -> list[str]:
    """Return the names of the parameters that require a gradient and get none from the sum of the maps."""
    named = [(name, p) for name, p in levels.named_parameters() if p.requires_grad]
    maps = levels(x)[-1:] if last_only else levels(x)
    weights, ones = [p for _, p in named], [torch.ones_like(m) for m in maps]
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(maps, weights, ones, allow_unused=True)
    return [name for (name, _), grad in zip(named, grads, strict=True) if grad is None]
