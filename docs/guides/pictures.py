"""What the guides draw with: images side by side, and on them boxes and masks.

Needs matplotlib. The text of a picture is also what is read aloud to those who do not
see it.
"""

from collections.abc import Sequence

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Polygon
from torch import Tensor

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # of classes, for all eyes
_SMALL = {"fontsize": 8}


def draw_images(
    text: str,
    images: Sequence[Tensor],
    titles: Sequence[str] = (),
    columns: int = 4,
    limits: tuple[float, float] | None = None,
) -> list[Axes]:
    """Draw images side by side, and return where, to draw on them.

    Parameters
    ----------
    text
        What the picture shows.
    images
        Each ``(3, H, W)`` in [0, 1], or ``(H, W)``, which gets colors from dark to
        light.
    titles
        Of each image.
    columns
        Images in a row.
    limits
        What is darkest and what is lightest in ``(H, W)`` images; by default, each
        image has its own.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = images[0].shape[-2:]
    size = (1.9 * columns, (1.9 * height / width + 0.25 * bool(titles)) * rows + 0.4)
    figure, grid = plt.subplots(
        rows, columns, num=text, figsize=size, layout="constrained", squeeze=False
    )
    figure.suptitle(text, fontsize=9)
    places = list(grid.flat)
    for axes in places:
        axes.set_axis_off()
    for axes, image in zip(places, images, strict=False):
        pixels = image.float().movedim(0, -1) if image.ndim == 3 else image.float()
        low, high = limits or (None, None)
        axes.imshow(pixels.numpy(), vmin=low, vmax=high)
    for axes, title in zip(places, titles, strict=False):
        axes.set_title(title, **_SMALL)
    return places[: len(images)]


def draw_boxes(
    axes: Axes, boxes: Tensor, names: Sequence[str] = (), color: str = "white"
) -> None:
    """Draw boxes on an image.

    Parameters
    ----------
    axes
        Where the image is.
    boxes
        ``(K, 4)``: left, top, right and bottom in pixels; or ``(K, 5)``: center x and
        y, width, height and angle.
    names
        Of each box.
    color
        Of the boxes.
    """
    for i, box in enumerate(boxes):
        corners = (
            _corners(box) - 0.5
        ).numpy()  # matplotlib has the center of a pixel at 0
        axes.add_patch(Polygon(corners, fill=False, edgecolor=color, linewidth=1.5))
        if names:
            x, y = corners[:, 0].min(), corners[:, 1].min()
            axes.text(x, y, names[i], color=color, va="bottom", **_SMALL)


def draw_mask(axes: Axes, mask: Tensor, color: str) -> None:
    """Color the pixels of a ``(H, W)`` mask."""
    one = torch.ones(mask.shape).numpy()
    axes.imshow(one, cmap=ListedColormap([color]), alpha=0.6 * mask.float().numpy())


def draw_curve(text: str, values: Sequence[float], label: str, window: int = 8) -> Axes:
    """Draw what is measured at each step, and its mean over some steps."""
    figure, axes = plt.subplots(num=text, figsize=(5, 2.4), layout="constrained")
    figure.suptitle(text, fontsize=9)
    axes.plot(values, color="#bbbbbb", linewidth=1)
    means = torch.tensor(values).unfold(0, window, 1).mean(dim=1)
    axes.plot(range(window - 1, len(values)), means.tolist(), color=COLORS[0])
    axes.set_xlabel("step", **_SMALL)
    axes.set_ylabel(label, **_SMALL)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def colors(y: Tensor) -> Tensor:
    """Return a ``(C, H, W)`` map as a picture of its first three principal components.

    ``(3, H, W)``, in [0, 1]: strongest first, as red, green and blue.
    """
    cells = y.flatten(1).T.double()
    cells = cells - cells.mean(dim=0)
    directions = torch.linalg.eigh(cells.T @ cells).eigenvectors[:, -3:]
    components = (cells @ directions).flip(1)
    low, high = components.quantile(torch.tensor([0.02, 0.98]).double(), dim=0)
    scaled = ((components - low) / (high - low)).clamp(0, 1)
    return scaled.T.unflatten(1, y.shape[1:])


def _corners(box: Tensor) -> Tensor:
    if len(box) == 4:
        left, top, right, bottom = box.tolist()
        return torch.tensor(
            [[left, top], [right, top], [right, bottom], [left, bottom]]
        )
    x, y, width, height, angle = box
    signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    u, v = (signs * torch.stack([width, height])).unbind(dim=1)
    columns = u * angle.cos() - v * angle.sin(), u * angle.sin() + v * angle.cos()
    return torch.stack(columns, dim=1) + torch.stack([x, y])
