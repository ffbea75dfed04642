"""From an image as it was read to pixels for a backbone: decoded, resized, cropped. They are normalized in batches."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autobackbone.errors import ConfigError, InputError, InputSizeError
from autobackbone.extraction.decoding import Opened, UnreadableError, decode, open_image
from autobackbone.extraction.images import DatasetImages, Images
from autobackbone.input_spec import InputSpec, pixel_transform
from autobackbone.pixels import convert
from autobackbone.values import as_size, one_of, shown

if TYPE_CHECKING:
    from collections.abc import Callable

RESIZES = ("crop", "stretch", "none")
_MODES = {1: "L", 3: "RGB"}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Prepared(NamedTuple):
    """An image, ready to be put into a batch.

    Attributes
    ----------
    pixels
        ``(C, H, W)``: bytes that are normalized with the batch, or floating point numbers that are ready.
    width, height
        Of the original image in pixels, upright; of a tensor, its own.
    content_hash
        SHA-256 of the encoded image; of the pixels if it was not encoded.
    """

    pixels: Tensor
    width: int
    height: int
    content_hash: str


@dataclass(frozen=True)
class Preparation:
    """How images become the input of a backbone.

    Parameters
    ----------
    spec
        The input of the backbone.
    resize
        ``"crop"``: as the weights were evaluated, resized and cropped. ``"stretch"``: resized to `size`.
        ``"none"``: at its own size.
    size
        ``(height, width)`` in pixels.
    scaled
        Decode JPEGs at a fraction of their size where that is enough.
    custom
        Called with an RGB or gray PIL image instead; returns a normalized ``(C, H, W)`` tensor.
    """

    spec: InputSpec
    resize: str
    size: tuple[int, int]
    scaled: bool
    custom: Callable[[Any], Any] | None

    @classmethod
    def of(cls, spec: InputSpec, resize: Any, size: Any, custom: Any, *, scaled: bool) -> Preparation:
        """Check the arguments of a user.

        Raises
        ------
        ConfigError
            If one of them cannot be honored.
        InputSizeError
            If the backbone does not accept images of this size.
        """
        one_of("resize", resize, RESIZES)
        wanted = spec.size if size is None else as_size(size)
        if wanted is None:
            msg = f"image_size must be (height, width) or a number, in pixels, got {shown(size)}."
            raise ConfigError(msg)
        if custom is not None and (resize != "crop" or size is not None):
            msg = "transform= replaces resize= and image_size=; leave these out."
            raise ConfigError(msg)
        if custom is not None and not callable(custom):
            msg = f"transform must be a function of a PIL image, got {shown(custom)}."
            raise ConfigError(msg)
        if resize == "none" and size is not None:
            msg = "resize='none' keeps every image's own size; leave image_size= out."
            raise ConfigError(msg)
        if resize == "none" and spec.fixed_size:
            msg = f"resize='none': this backbone takes {spec.size[0]}x{spec.size[1]} images only; leave resize= out."
            raise InputSizeError(msg)
        if custom is None and resize != "none":
            spec.check(torch.empty(1, spec.in_chans, *wanted, device="meta"))
        return cls(spec, resize, wanted, scaled, custom)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """``(height, width)`` of every input of the backbone; ``None`` if images have sizes of their own."""
        return None if self.custom is not None or self.resize == "none" else self.size

    def for_images(self, images: Images) -> Preparation:
        """Return the preparation of some images: tensors of a data set are taken as they are.

        Raises
        ------
        ConfigError
            If they are tensors, and the user asks to prepare them; if they are none, and the backbone takes other
            channels than images have.
        """
        first = None
        if isinstance(images, DatasetImages):
            try:
                first = images.read(images.refs[0])
            except Exception:  # noqa: BLE001 - of a user's data set; it is told when this image's turn comes
                return self
        if not isinstance(first, Tensor):
            if self.custom is None and self.spec.in_chans not in _MODES:
                channels = self.spec.in_chans
                msg = f"The backbone takes {channels} channels, an image has 1 or 3: give tensors or transform=."
                raise ConfigError(msg)
            return self
        if self.custom is not None or self.resize != "crop" or self.size != self.spec.size:
            msg = "The images are tensors, which are taken as they are: leave transform=, resize= and image_size= out."
            raise ConfigError(msg)
        return replace(self, custom=_as_tensors)

    def describe(self) -> dict[str, Any]:
        """Return what is done to an image, as plain values."""
        spec = self.spec
        if self.custom is not None:
            name = "tensors as they are" if self.custom is _as_tensors else _identity(self.custom)
            return {"custom": name, "in_chans": spec.in_chans}
        normalization = {"in_chans": spec.in_chans, "mean": list(spec.mean), "std": list(spec.std)}
        if self.resize == "none":
            return {"resize": "none", **normalization}
        crop = {"crop_pct": spec.crop_pct, "crop_mode": spec.crop_mode} if self.resize == "crop" else {}
        return {
            "resize": self.resize,
            "size": list(self.size),
            "interpolation": spec.interpolation,
            **crop,
            "scaled_decoding": self.scaled,
            **normalization,
        }

    def open(self, content: Any) -> Opened | Prepared:
        """Read the header of an image; a tensor is ready as it is.

        Raises
        ------
        UnreadableError
            If it is no image.
        """
        if isinstance(content, Tensor):
            if self.custom is not _as_tensors:
                msg = "it is a tensor, and the first image was none; a data set gives tensors or images, not both"
                raise UnreadableError(msg)
            pixels = self._pixels(content)
            return Prepared(pixels, pixels.shape[-1], pixels.shape[-2], _hash_of(pixels))
        if isinstance(content, np.ndarray):
            try:
                content = Image.fromarray(content)
            except (TypeError, ValueError) as err:
                msg = f"an array {content.dtype}{content.shape} is no image ({err})"
                raise UnreadableError(msg) from err
        if not isinstance(content, bytes | Image.Image):
            msg = f"a {type(content).__name__} is no image; give a path, bytes, a PIL image, an array or a tensor"
            raise UnreadableError(msg)
        return open_image(content)

    def size_of(self, opened: Opened | Prepared) -> tuple[int, int] | None:
        """Return ``(height, width)`` of the input that an image will be; ``None`` if it is the same for every image."""
        if isinstance(opened, Prepared):
            return opened.pixels.shape[-2], opened.pixels.shape[-1]
        return (opened.height, opened.width) if self.resize == "none" else None

    def finish(self, opened: Opened | Prepared) -> Prepared:
        """Decode and resize an image.

        Raises
        ------
        UnreadableError
            If it is damaged, or the backbone does not accept it.
        """
        if isinstance(opened, Prepared):
            return opened
        mode = _MODES.get(self.spec.in_chans, "RGB")  # others are of a custom transform
        image = decode(opened, self.fraction(opened.height, opened.width))
        if image.format != "JPEG":  # which may be smaller now; of a PNG, Exif may stand behind the pixels
            opened = opened._replace(width=image.width, height=image.height)
        try:
            if self.resize == "none":
                self.spec.check(torch.empty(1, self.spec.in_chans, opened.height, opened.width, device="meta"))
            ready = self.resized(convert(image, mode))
        except InputError as err:
            raise UnreadableError(str(err)) from err
        if self.custom is not None:
            return Prepared(self._pixels(ready), opened.width, opened.height, opened.content_hash)
        return Prepared(ready, opened.width, opened.height, opened.content_hash)

    @cached_property
    def resized(self) -> Callable[[Any], Any]:
        """From an image in the right mode to its pixels: resized, and cropped."""
        if self.custom is not None:
            return self.custom
        if self.resize == "none":
            return _bytes_of
        return pixel_transform(self.spec, self.size, crop=self.resize == "crop")

    def fraction(self, height: int, width: int) -> float:
        """Return the share of an image's height and width that is needed to resize it."""
        if not self.scaled or self.custom is not None or self.resize == "none" or 0 in (height, width):
            return 1.0
        share = min(self.spec.crop_pct, 1.0) if self.resize == "crop" else 1.0
        return min(1.0, max(self.size[0] / height, self.size[1] / width) / share)

    def _pixels(self, pixels: Any) -> Tensor:
        """Check a tensor of a data set or of a custom transform."""
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 or not pixels.is_floating_point():
            kind = (
                f"{pixels.dtype} {tuple(pixels.shape)} tensor" if isinstance(pixels, Tensor) else type(pixels).__name__
            )
            msg = f"a {kind} is no normalized (C, H, W) image"
            raise UnreadableError(msg)
        try:
            self.spec.check(pixels[None])
        except InputError as err:
            raise UnreadableError(str(err)) from err
        return pixels.detach()


def _bytes_of(image: Image.Image) -> Tensor:
    """Return a gray or RGB image as ``(C, H, W)`` bytes."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _identity(custom: Any, outer: tuple[Any, ...] = ()) -> str:
    """Return a text that is the same for the same transform in another process, and not for others.

    Transforms of torchvision say what they do in their repr. A function is told by its code and by what it refers to,
    an object without a repr by its attributes. Of these, other objects count by their type alone: their state may
    change while images are transformed.

    Parameters
    ----------
    custom
        The transform, or what it refers to.
    outer
        What refers to it.
    """
    text = repr(custom)
    code = getattr(custom, "__code__", None)
    if not _ADDRESS.search(text):
        return text
    if outer and code is None:
        return type(custom).__qualname__
    values: list[Any] = []
    inside: list[str] = []
    if code is not None and not any(custom is each for each in outer):
        values += [cell.cell_contents for cell in custom.__closure__ or ()]
        values += [*(custom.__defaults__ or ()), *(custom.__kwdefaults__ or {}).items()]
        inside += _text_of(code)
        inside += [_identity(custom.__self__)] if not outer and hasattr(custom, "__self__") else []  # of a method
    elif code is None:
        call = vars(type(custom)).get("__call__")
        values += [*sorted(getattr(custom, "__dict__", {}).items()), *([call] if hasattr(call, "__code__") else [])]
    inside += [_identity(value, (*outer, custom)) for value in values]
    return f"{_ADDRESS.sub('', text)} {sha256(repr(inside).encode()).hexdigest()[:16]}"


def _text_of(code: CodeType) -> list[str]:
    """Return what code does. Where it stands in a file, and the order of sets, may differ in another process."""
    texts = [code.co_code.hex(), *code.co_names]
    for value in code.co_consts:
        if isinstance(value, CodeType):
            texts += _text_of(value)
        else:
            texts.append(repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value))
    return texts


def _as_tensors(image: Any) -> Any:
    """Stand for a transform where a data set gives tensors: any other image in it is refused."""
    return image


def _hash_of(tensor: Tensor) -> str:
    pixels = tensor.detach().cpu().contiguous()
    header = f"{pixels.dtype} {tuple(pixels.shape)} ".encode()
    return sha256(header + pixels.view(torch.uint8).numpy().tobytes()).hexdigest()
