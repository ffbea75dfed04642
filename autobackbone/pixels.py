"""Pixels: convert PIL images of any mode to 8-bit gray or RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autobackbone.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_DEEPEST = 65535  # the largest 16-bit value


def convert(image: Any, mode: str) -> Image.Image:
    """Convert an image to a mode without changing its brightness.

    Pillow converts wherever it keeps the brightness. It would clip 16-bit images at 255, so these are divided by 257
    instead. Pillow reads some 16-bit images, such as PGM files, as 32-bit integers; values up to 65535 therefore count
    as 16-bit.

    Parameters
    ----------
    image
        A PIL image of any mode. Transparency is dropped.
    mode
        ``"L"`` or ``"RGB"``.

    Raises
    ------
    InputError
        If it is not a PIL image, has no pixels, or has pixels whose range is not known: floating point numbers, or
        32-bit integers that are negative or above 65535.
    """
    from PIL import Image

    if not isinstance(image, Image.Image):
        msg = f"A PIL image is needed, got {type(image).__name__}; Image.fromarray() makes one of an array."
        raise InputError(msg)
    if 0 in image.size:
        msg = f"The image has no pixels: it is {image.width} wide and {image.height} high."
        raise InputError(msg)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "La":  # Pillow converts this and the following modes only in two steps
        image = image.convert("LA")
    elif image.mode == "LAB" or (image.mode in ("P", "PA") and "transparency" in image.info):
        image = image.convert("RGB" if image.mode == "LAB" else "RGBA")
    converted: Image.Image = image.convert(mode)
    return converted


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image with 16-bit gray values to 8 bits."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64) if image.mode != "F" else None
    if values is None or values.min() < 0 or values.max() > _DEEPEST:
        msg = (
            "The image has 32-bit pixels, whose range is not known (16 bits are from 0 to 65535); scale it to 8 or "
            "16 bits."
        )
        raise InputError(msg)
    return Image.fromarray(((values * 255 + _DEEPEST // 2) // _DEEPEST).astype(np.uint8))
