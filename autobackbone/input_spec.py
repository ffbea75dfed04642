"""InputSpec: the input of a backbone, and the preprocessing of images for it."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autobackbone.errors import InputError, InputSizeError
from autobackbone.pixels import convert
from autobackbone.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

_PIL_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class InputSpec:
    """The images that a backbone accepts.

    Attributes
    ----------
    in_chans
        Channels of the images.
    size
        ``(height, width)`` in pixels that the weights were trained for, or that the backbone was built for.
    mean, std
        Per channel, for images in [0, 1]. There are `in_chans` entries, repeated in the order of the stem's weights.
    interpolation
        How images are resized: ``"bicubic"``, ``"bilinear"``, ``"nearest"`` ...
    crop_pct
        Share of the resized image that the evaluation crop keeps, above 0. Above 1, a border is added.
    crop_mode
        How the image is cropped for evaluation: ``"center"``, ``"squash"`` or ``"border"``.
    min_size
        Smallest height and width in pixels.
    fixed_size
        Whether the backbone accepts only images of `size`.
    size_divisor
        A feature backbone pads height and width at the bottom and right to a multiple of this; 1 means it never pads.
        A pooled backbone does not pad: height and width of its images must be multiples of this.
    """

    in_chans: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    min_size: int
    fixed_size: bool
    size_divisor: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values: tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def check(self, x: Any) -> None:
        """Raise an error if the backbone does not accept `x`.

        Raises
        ------
        InputError
            If `x` is not a 4-D floating point tensor with at least one image of `in_chans` channels.
        InputSizeError
            If its height or width is below `min_size`, or if the size is fixed and `x` has another one.
        """
        self.check_layout(x)
        _, _, *size = _shape(x)
        self._check_size((size[0], size[1]))

    def check_layout(self, x: Any) -> None:
        """Raise an error if the backbone does not accept `x`; height and width are not checked.

        Raises
        ------
        InputError
            As in `check`.
        """
        from torch import Tensor, strided

        if not isinstance(x, Tensor):
            msg = f"A backbone takes a tensor of (B, {self.in_chans}, H, W) images, got {type(x).__name__}."
            raise InputError(msg)
        if x.is_nested or x.is_sparse or x.layout != strided:
            msg = f"A backbone takes a dense tensor, got {'a nested one' if x.is_nested else x.layout}; use to_dense()."
            raise InputError(msg)
        shape = _shape(x)
        if x.ndim != 4:
            msg = f"A backbone takes (B, {self.in_chans}, H, W) images, got shape {shape}{_hint(x)}."
            raise InputError(msg)
        if shape[1] != self.in_chans:
            remedy = f"create it with in_chans={shape[1]}, or give" if shape[1] else "give"
            msg = (
                f"This backbone takes {self.in_chans} channels, got {shape[1]} in shape {shape}; {remedy} NCHW images."
            )
            raise InputError(msg)
        if not x.is_floating_point():
            msg = (
                f"A backbone takes floating point images, got {x.dtype}; scale them to [0, 1] and use "
                "input_spec.normalize()."
            )
            raise InputError(msg)
        if shape[0] == 0:
            msg = f"A backbone takes at least one image, got shape {shape}."
            raise InputError(msg)

    def _check_size(self, size: tuple[int, int]) -> None:
        if self.fixed_size and size != self.size:
            msg = (
                f"This backbone takes {self.size[0]}x{self.size[1]} images only, got {size[0]}x{size[1]}; "
                f"create it with img_size={size}, or resize the images."
            )
            raise InputSizeError(msg)
        if min(size) < self.min_size:
            msg = (
                f"This backbone takes images of at least {self.min_size}x{self.min_size}, got {size[0]}x{size[1]}; "
                "resize or pad them."
            )
            raise InputSizeError(msg)

    def normalize(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation.

        Parameters
        ----------
        x
            ``(B, C, H, W)`` or ``(C, H, W)``, floating point, in [0, 1].

        Returns
        -------
        Tensor
            The same shape, dtype and device.

        Raises
        ------
        InputError
            If `x` is not a tensor, is not floating point, or does not have `in_chans` channels.
        """
        from torch import Tensor

        value: Any = x
        if not isinstance(value, Tensor):
            msg = f"normalize() takes a tensor, got {type(value).__name__}; torch.as_tensor() makes one of an array."
            raise InputError(msg)
        if not x.is_floating_point():
            msg = f"normalize() takes floating point images in [0, 1], got {x.dtype}; divide by its maximum first."
            raise InputError(msg)
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_chans:
            msg = (
                f"normalize() takes (B, {self.in_chans}, H, W) or ({self.in_chans}, H, W) images, "
                f"got shape {tuple(x.shape)}."
            )
            raise InputError(msg)
        mean = x.new_tensor(self.mean).view(-1, 1, 1)
        std = x.new_tensor(self.std).view(-1, 1, 1)
        return (x - mean) / std

    def transform(self, *, training: bool = False) -> Callable[[Any], Tensor]:
        """Return timm's transform from a PIL image to a normalized ``(C, H, W)`` tensor.

        The image may have any mode, including 16-bit ones. Images with floating point pixels, or with 32-bit pixels
        outside the 16-bit range, are refused because their range is not known.

        Parameters
        ----------
        training
            Apply timm's default augmentation instead of resize and center crop.

        Raises
        ------
        InputError
            If `in_chans` is neither 1 nor 3, the only counts of PIL images, or if `training` is not a bool. The
            transform raises it if its argument is not a PIL image, or has pixels whose range is not known.
        """
        from timm.data import create_transform

        value: Any = training
        if not isinstance(value, bool):
            msg = f"training must be True or False, got {shown(value)}."
            raise InputError(msg)
        if self.in_chans not in _PIL_MODES:
            msg = f"transform() makes 1 or 3 channels of a PIL image, this input has {self.in_chans}; use normalize()."
            raise InputError(msg)
        transform: Callable[[Any], Tensor] = create_transform(
            input_size=(self.in_chans, *self.size),
            is_training=training,
            mean=self.mean,
            std=self.std,
            interpolation="random" if training else self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        return _PILTransform(_PIL_MODES[self.in_chans], transform)


def pixel_transform(spec: InputSpec, size: tuple[int, int], *, crop: bool) -> Callable[[Any], Tensor]:
    """Return the part of a transform that makes the size: of a PIL image ``(C, H, W)`` bytes, not normalized.

    Parameters
    ----------
    spec
        How images are resized, and cropped.
    size
        ``(height, width)`` in pixels of the result.
    crop
        Crop as the weights were evaluated; else the image is stretched to the size.
    """
    from timm.data import create_transform

    transform: Callable[[Any], Tensor] = create_transform(
        input_size=(spec.in_chans, *size),
        is_training=False,
        use_prefetcher=True,  # which normalizes
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct if crop else 1.0,
        crop_mode=spec.crop_mode if crop else "squash",
    )
    return transform


@dataclass(frozen=True)
class _PILTransform:
    """A transform of PIL images of any mode. It is picklable, for the workers of a data loader."""

    mode: str
    transform: Callable[[Any], Tensor]

    def __call__(self, image: Any) -> Tensor:
        return self.transform(convert(image, self.mode))


def _shape(x: Tensor) -> tuple[int, ...]:
    """Return the shape as numbers. Under torch.jit.trace it holds tensors, and torch warns when they are compared."""
    import torch

    if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return tuple(x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return tuple(int(n) for n in x.shape)


def mismatch_error(network: nn.Module, x: Tensor) -> InputError | None:
    """Return an error if the images have another device or dtype than the network; else ``None``."""
    from torch import is_autocast_enabled

    like = next(network.parameters(), None)
    if like is None or (x.device == like.device and x.dtype == like.dtype):
        return None
    if x.device == like.device and x.device.type != "meta" and is_autocast_enabled(x.device.type):
        return None  # autocast allows dtypes to differ
    return InputError(
        f"The backbone is {like.dtype} on {like.device}, and the images are {x.dtype} on {x.device}; "
        "use x.to() with its device and dtype, or torch.autocast()."
    )


def _hint(x: Tensor) -> str:
    return "; add the batch dimension with x[None]" if x.ndim == 3 else ""


def repeat_to(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Repeat per-channel values to `channels` entries, as timm repeats the weights of a stem.

    For one channel timm sums the stem's weights, so the result is the mean of the values. Other counts cycle through
    the values.
    """
    if channels == len(values):
        return values
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))
