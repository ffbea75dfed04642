"""FeatureBackbone: the contract, whatever the source."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from autobackbone.config import FeatureBackboneConfig
from autobackbone.errors import InputError, InputSizeError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureInfo, FeatureLevel, NativeLevel, ceil_div, round_up
from autobackbone.pyramid import fit, resample


class FeatureBackbone(nn.Module):
    """A backbone that gives feature maps.

    Level *l* is ``(B, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))``. Made by `create_feature_backbone`.

    Parameters
    ----------
    body
        Takes ``(B, C, H, W)``; returns one NCHW map per native index that `levels` take, shallow to deep.
    ladder
        Every native level of the architecture.
    levels
        What to deliver, in order.
    input_spec
        What the backbone takes as input.
    built_size
        ``(height, width)`` in pixels that `body` was built for, if that is the one size it takes.
    config
        The resolved config, as a record.

    Attributes
    ----------
    ladder : tuple of NativeLevel
        Every native level of the architecture, by index.
    levels : tuple of FeatureLevel
        Name, native index, channels, stride, module and exactness of each map.
    feature_info : FeatureInfo
        The same under timm's interface.
    input_spec : InputSpec
        Channels, size, normalisation, minimum size, and whether any size is taken.
    config : FeatureBackboneConfig
        With concrete indices or strides.
    """

    def __init__(
        self,
        body: nn.Module,
        ladder: Sequence[NativeLevel],
        levels: Sequence[FeatureLevel],
        input_spec: InputSpec,
        built_size: tuple[int, int] | None,
        config: FeatureBackboneConfig,
    ) -> None:
        super().__init__()
        self.body = body
        self.ladder = tuple(ladder)
        self.levels = tuple(levels)
        self.feature_info = FeatureInfo(ladder, levels)
        self.input_spec = input_spec
        self.config = config
        self._built_size = built_size
        taken = sorted({level.index for level in levels})
        # Per level: where its map is in the body's list, the native level it comes from, and the stride wanted.
        self._recipe = tuple((taken.index(level.index), ladder[level.index], level.stride) for level in levels)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, in order."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each map, in order."""
        return tuple(level.stride for level in self.levels)

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self.levels[-1].channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps.

        Parameters
        ----------
        x
            ``(B, C, H, W)`` images, floating point, normalised as `input_spec` says.

        Returns
        -------
        list of Tensor
            One ``(B, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))`` map per level, in order.

        Raises
        ------
        InputError
            If `x` is not a 4-D floating point tensor with images of the right number of channels.
        InputSizeError
            If H or W is below the minimum, or not the one size that the architecture takes.
        """
        self._check(x)
        height, width = x.shape[-2:]
        if self._built_size is None:
            divisor = self.input_spec.divisor
            full = (round_up(height, divisor), round_up(width, divisor))
        else:
            full = self._built_size
        if full != (height, width):
            x = F.pad(x, (0, full[1] - width, 0, full[0] - height))
        maps = self.body(x)
        return [self._deliver(maps[i], native, stride, (height, width), full) for i, native, stride in self._recipe]

    def forward_dict(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the maps by level name; see `forward`."""
        return {level.name: y for level, y in zip(self.levels, self(x), strict=True)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Raises
        ------
        UnsupportedError
            If the architecture cannot.
        """
        self.body.set_grad_checkpointing(enable)  # type: ignore[operator]

    def extra_repr(self) -> str:
        """Return the levels, for printing."""
        return ", ".join(f"{level.name}: {level.channels}x1/{level.stride}" for level in self.levels)

    def _deliver(
        self, y: Tensor, native: NativeLevel, stride: int, image: tuple[int, int], full: tuple[int, int]
    ) -> Tensor:
        size = (ceil_div(image[0], stride), ceil_div(image[1], stride))
        if not native.exact:
            y = fit(y, (ceil_div(full[0], native.stride), ceil_div(full[1], native.stride)))
        if stride != native.stride:
            return resample(y, native.stride, stride, size)
        return y if y.shape[-2:] == size else y[..., : size[0], : size[1]]

    def _check(self, x: Any) -> None:
        spec = self.input_spec
        if not isinstance(x, Tensor):
            msg = f"A backbone takes a tensor of (B, {spec.in_chans}, H, W) images, got {type(x).__name__}."
            raise InputError(msg)
        if x.ndim != 4:
            msg = f"A backbone takes (B, {spec.in_chans}, H, W) images, got shape {tuple(x.shape)}{_hint(x)}."
            raise InputError(msg)
        if x.shape[1] != spec.in_chans:
            msg = (
                f"This backbone takes {spec.in_chans} channels, got {x.shape[1]} in shape {tuple(x.shape)}; "
                f"create it with in_chans={x.shape[1]}, or give NCHW images."
            )
            raise InputError(msg)
        if not x.is_floating_point():
            msg = (
                f"A backbone takes floating point images, got {x.dtype}; scale them to [0, 1] and use "
                "input_spec.normalize()."
            )
            raise InputError(msg)
        if x.shape[0] == 0:
            msg = f"A backbone takes at least one image, got shape {tuple(x.shape)}."
            raise InputError(msg)
        size = (x.shape[2], x.shape[3])
        if spec.fixed_size and size != spec.size:
            msg = (
                f"This backbone takes {spec.size[0]}x{spec.size[1]} images only, got {size[0]}x{size[1]}; "
                f"create it with img_size={size}, or resize the images."
            )
            raise InputSizeError(msg)
        if min(size) < spec.min_size:
            msg = (
                f"This backbone takes images of at least {spec.min_size}x{spec.min_size}, got {size[0]}x{size[1]}; "
                "resize or pad them."
            )
            raise InputSizeError(msg)


def _hint(x: Tensor) -> str:
    return "; add the batch dimension with x[None]" if x.ndim == 3 else ""
