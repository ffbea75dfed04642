"""Encoded images to upright PIL images; JPEGs at a fraction of their size where that is enough."""

from __future__ import annotations

import math
from hashlib import sha256
from io import BytesIO
from typing import Any, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

_ORIENTATION = 0x0112  # the Exif tag
_SIDEWAYS = (5, 6, 7, 8)  # its values for images that lie on their side
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF, as stored
_SEVERAL = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # animations and pages; other formats hold previews


class UnreadableError(Exception):
    """An image cannot be decoded; the text is the reason."""


class Opened(NamedTuple):
    """An image whose header has been read.

    Attributes
    ----------
    image
        Not decoded yet, if it was encoded.
    width, height
        Of the image in pixels, upright.
    content_hash
        SHA-256 of the encoded image; of the pixels if it was not encoded.
    """

    image: Image.Image
    width: int
    height: int
    content_hash: str


def open_image(content: bytes | Image.Image) -> Opened:
    """Read the header of an encoded image.

    Raises
    ------
    UnreadableError
        If it is empty, of no known format, too large, or holds several images.
    """
    if isinstance(content, Image.Image):
        if content.getexif().get(_ORIENTATION, 1) != 1:
            content = ImageOps.exif_transpose(content)  # a copy: the image is the user's
        pixels = f"{content.mode} {content.size} ".encode() + content.tobytes()
        return Opened(content, content.width, content.height, sha256(pixels).hexdigest())
    if not content:
        msg = "the file is empty"
        raise UnreadableError(msg)
    try:
        image = Image.open(BytesIO(content))
        several = image.format in _SEVERAL and getattr(image, "is_animated", False)
        sideways = _has_exif(image) and image.getexif().get(_ORIENTATION) in _SIDEWAYS and not _is_turned(image)
    except Exception as err:  # Pillow's readers raise errors of many kinds
        raise UnreadableError(_reason(err)) from err
    if several:
        msg = f"it holds {getattr(image, 'n_frames', 'several')} images; extract one of them to a file"
        raise UnreadableError(msg)
    width, height = image.size[::-1] if sideways else image.size
    return Opened(image, width, height, sha256(content).hexdigest())


def decode(opened: Opened, fraction: float = 1.0) -> Image.Image:
    """Decode an image, and turn it upright.

    Parameters
    ----------
    opened
        The image. It can be decoded once.
    fraction
        Of its height and width that is needed. JPEGs are then decoded at 1/2, 1/4 or 1/8 of their size, if that is
        enough: fewer coefficients of the cosine transform are computed.

    Raises
    ------
    UnreadableError
        If it is cut off or damaged.
    """
    image = opened.image
    try:
        if fraction <= 1 / 2 and image.format == "JPEG":
            image.draft(None, (math.ceil(image.width * fraction), math.ceil(image.height * fraction)))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as err:  # Pillow's readers raise errors of many kinds
        raise UnreadableError(_reason(err)) from err
    return image


def _has_exif(image: Any) -> bool:
    """Whether Exif can be read from the header. Pillow would decode a PNG to look for Exif behind its pixels."""
    return image.format != "PNG" or "exif" in image.info or "Raw profile type exif" in image.info


def _is_turned(image: Any) -> bool:
    """Whether the size is that of the upright image already: newer Pillows turn TIFF images themselves."""
    return bool(image.format == "TIFF" and image.size != (image.tag_v2.get(_WIDTH), image.tag_v2.get(_HEIGHT)))


def _reason(err: Exception) -> str:
    if isinstance(err, UnidentifiedImageError):
        return "its content is of no format that Pillow knows"
    return " ".join((str(err) or type(err).__name__).split())[:300]
