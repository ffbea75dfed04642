"""Pixels: PIL images of any mode as 8 bits of gray or of red, green and blue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autobackbone.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_DEEPEST = 65535  # of 16 bits


def convert(image: Any, mode: str) -> Image.Image:
    """Return an image in a mode, with the brightness that it has in its own.

    Pillow's own conversion, wherever that keeps the brightness. Images of 16 bits, which it would cut off at 255, are
    divided by 257. Pillow gives some of them, such as those of PGM files, as 32-bit integers: those up to 65535 are
    taken for 16 bits.

    Parameters
    ----------
    image
        A PIL image of any mode. Transparency is left out.
    mode
        ``"L"`` or ``"RGB"``.

    Raises
    ------
    InputError
        If it is no PIL image, has no pixels, or has 32-bit pixels whose range is not known: floating point ones,
        negative ones, or ones above 65535.
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
    elif image.mode == "La":  # what else Pillow converts by one step more
        image = image.convert("LA")
    elif image.mode == "LAB" or (image.mode in ("P", "PA") and "transparency" in image.info):
        image = image.convert("RGB" if image.mode == "LAB" else "RGBA")
    converted: Image.Image = image.convert(mode)
    return converted


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of deep gray values as 8-bit ones."""
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
