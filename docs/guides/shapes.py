"""What the guides learn from: generated images, with boxes, labels and masks.

Shapes are lighter than what is behind them. Everything else is random: colors,
textures, areas, proportions, places and angles. Only the outline says what a shape is;
color, brightness and area are distributed alike for all classes.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = ("background", "ellipse", "rectangle", "triangle")


def make_shapes(
    count: int, seed: int, size: tuple[int, int] = (64, 64), most: int = 1
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Draw textured shapes that do not overlap on textured backgrounds.

    Parameters
    ----------
    count
        Number of images, B.
    seed
        The same seed gives the same images; another seed gives images to hold out.
    size
        Height and width of the images in pixels, H and W.
    most
        Each image has K shapes, from 1 to this many. Each covers from 0.08 / K to
        0.16 / K of the largest square in it.

    Returns
    -------
    images : Tensor
        ``(B, 3, H, W)`` float, in [0, 1].
    targets : list of dict
        For each image, as the detectors of torchvision take them: ``boxes``, ``(K, 4)``
        float, left, top, right and bottom in pixels; ``labels``, ``(K,)`` int64,
        indices into `CLASSES` from 1 up; ``masks``, ``(K, H, W)`` bool. Also
        ``oriented``, ``(K, 5)`` float: center x and y, width and height in pixels
        (width is the longer), and the angle from the x axis towards the y axis, which
        points down, in [0, 2 pi).
    """
    rng = np.random.default_rng(seed)
    images, targets = zip(*(_scene(rng, size, most) for _ in range(count)), strict=True)
    return torch.stack(images), list(targets)


def _scene(
    rng: np.random.Generator, size: tuple[int, int], most: int
) -> tuple[Tensor, dict[str, Tensor]]:
    color = rng.uniform(0.1, 0.5, (3, 1, 1))
    image = _texture(rng, size, color)
    masks, labels, boxes, oriented = [], [], [], []
    number = rng.integers(1, most + 1)
    while len(masks) < number:
        mask, label, box = _shape(rng, size, number)
        if any((mask & other).any() for other in masks):
            continue  # anew, so that every mask is whole
        image = np.where(
            mask, _texture(rng, size, color + rng.uniform(0.25, 0.5, (3, 1, 1))), image
        )
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        masks.append(mask)
        labels.append(label)
        oriented.append(box)
    target = {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(np.stack(masks)),
        "oriented": torch.tensor(oriented, dtype=torch.float32),
    }
    return _image(image), target


def _shape(
    rng: np.random.Generator, size: tuple[int, int], number: int
) -> tuple[np.ndarray, int, list[float]]:
    label = int(rng.integers(1, len(CLASSES)))
    area = rng.uniform(0.08, 0.16) * min(size) ** 2 / number
    # of the two half sides of the box around it
    product = area / (math.pi, 4, 2)[label - 1]
    half_width = math.sqrt(product / rng.uniform(0.5, 0.8))
    half_height = product / half_width
    reach = math.hypot(half_width, half_height)
    y, x = (rng.uniform(reach, side - reach) for side in size)
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    u = ((columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)) / half_width
    v = ((rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)) / half_height
    inside = (
        u**2 + v**2 <= 1,
        np.maximum(abs(u), abs(v)) <= 1,
        (abs(v) <= (u + 1) / 2) & (u <= 1),
    )
    return inside[label - 1], label, [x, y, 2 * half_width, 2 * half_height, angle]


def _texture(
    rng: np.random.Generator, size: tuple[int, int], color: np.ndarray
) -> np.ndarray:
    cells = rng.integers(2, 17)
    coarse = torch.from_numpy(rng.normal(0, 0.06, (1, 3, cells, cells)))
    return (
        color
        + F.interpolate(coarse, size, mode="bilinear")[0].numpy()
        + rng.normal(0, 0.03, (3, *size))
    )


def _image(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float().clamp(0, 1)
