"""Pictures of features: an image, and beside it the map of each level in colors."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from autobackbone.errors import InputError
from autobackbone.input_spec import InputSpec, repeat_to
from autobackbone.levels import FeatureLevel
from autobackbone.pixels import convert

if TYPE_CHECKING:
    from torch import Tensor

_MARGIN = 12
_SHORTEST = 240  # minimum pixels of a panel's shorter side
_LONGEST = 2048  # maximum pixels of its longer side, unless the image is larger


def load_image(path: Path) -> Image.Image:
    """Read an image in any format of Pillow, turn it upright, and convert it to RGB.

    Raises
    ------
    InputError
        If there is no such file, or it is not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about large images that Pillow still reads
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                upright.load()
    except FileNotFoundError as err:
        msg = f"There is no image {str(path)!r}; check the path."
        raise InputError(msg) from err
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        unknown = "its content is of no format that Pillow knows"
        reason = (
            unknown if isinstance(err, UnidentifiedImageError) else (str(err) or type(err).__name__).splitlines()[0]
        )
        msg = f"{str(path)!r} is not an image that can be read ({reason})."
        raise InputError(msg) from err
    try:
        return convert(upright, "RGB")
    except InputError as err:
        msg = f"{str(path)!r}: {err}"
        raise InputError(msg) from err


def load_tensor(image: Image.Image, spec: InputSpec, max_side: int) -> "tuple[Tensor, Image.Image]":
    """Return an image as a normalized batch of one, and the resized image.

    An image keeps its size unless its longer side exceeds `max_side` pixels. It is enlarged to the backbone's minimum
    size, or resized to its fixed size.

    Returns
    -------
    Tensor
        ``(1, in_chans, H, W)``. Channels beyond three repeat the first three; a single channel is their mean.
    Image
        The image as the backbone sees it.
    """
    import torch

    if spec.fixed_size:
        size = (spec.size[1], spec.size[0])
    else:
        scale = min(1.0, max_side / max(image.size))
        size = (max(round(image.width * scale), spec.min_size), max(round(image.height * scale), spec.min_size))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    rgb = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    x = rgb.permute(2, 0, 1).float() / 255
    if spec.in_chans == 1:
        x = x.mean(0, keepdim=True)
    elif spec.in_chans != len(x):
        x = x[list(map(int, repeat_to((0.0, 1.0, 2.0), spec.in_chans)))]
    return spec.normalize(x)[None], image


def draw(image: Image.Image, levels: Sequence[FeatureLevel], maps: "Sequence[Tensor]", title: str) -> Image.Image:
    """Draw the image and, beside it, the first three principal components of each map as red, green and blue.

    Parameters
    ----------
    image
        The image as the backbone sees it.
    levels, maps
        The levels and the outputs of the backbone; each map is ``(1, C, H_l, W_l)``.
    title
        The text above.

    Raises
    ------
    InputError
        If a map is not finite.
    """
    scale = max(1, min(math.ceil(_SHORTEST / min(image.size)), _LONGEST // max(image.size)))
    panel = (image.width * scale, image.height * scale)
    font = ImageFont.load_default(16)
    panels = [(f"input {image.height}x{image.width}", image.resize(panel, Image.Resampling.NEAREST))]
    for level, y in zip(levels, maps, strict=True):
        label = f"{level.name}: {y.shape[1]} x {y.shape[2]}x{y.shape[3]}, stride {level.stride}"
        # The last cells of a map can reach beyond the image: enlarge all cells, then crop.
        covered = (round(y.shape[3] * level.stride * scale), round(y.shape[2] * level.stride * scale))
        if not bool(y.isfinite().all()):
            msg = f"The map of level {level.name} is not finite: the weights or the image hold NaN or infinity."
            raise InputError(msg)
        pixels = bytes(principal_colors(y[0]).flatten().tolist())
        colors = Image.frombytes("RGB", (y.shape[3], y.shape[2]), pixels).resize(covered, Image.Resampling.NEAREST)
        panels.append((label, colors.crop((0, 0, *panel))))

    width = max(panel[0], *(round(font.getlength(label)) for label, _ in panels))
    total = max(len(panels) * (width + _MARGIN), round(font.getlength(title)) + _MARGIN) + _MARGIN
    canvas = Image.new("RGB", (total, panel[1] + 60 + _MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, 8), title, fill="black", font=font)
    for i, (label, content) in enumerate(panels):
        left = _MARGIN + i * (width + _MARGIN)
        pen.text((left, 34), label, fill="black", font=font)
        canvas.paste(content, (left, 60))
    return canvas


def principal_colors(y: "Tensor") -> "Tensor":
    """Project a ``(C, H, W)`` map on its first three principal components; return ``(H, W, 3)`` bytes."""
    import torch

    cells = y.flatten(1).T.double()
    cells = cells - cells.mean(0)
    if len(cells) >= len(y):  # decompose the smaller of the two products
        components = cells @ torch.linalg.eigh(cells.T @ cells).eigenvectors[:, -3:]
    else:
        values, vectors = torch.linalg.eigh(cells @ cells.T)
        components = vectors[:, -3:] * values[-3:].clamp_min(0).sqrt()
    peaks = components.gather(0, components.abs().argmax(0, keepdim=True))
    components = (components * peaks.sign()).flip(1)  # strongest first, with a fixed choice of sign
    colors = torch.zeros(len(cells), 3, dtype=cells.dtype)
    colors[:, : components.shape[1]] = components
    low, high = colors.amin(0), colors.amax(0)
    scaled = (colors - low) / (high - low).clamp_min(torch.finfo(cells.dtype).tiny)
    return (scaled * 255).round().byte().view(y.shape[1], y.shape[2], 3)
