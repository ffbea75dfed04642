"""Photographs to extract features of, backbones, and what a plain loop over PIL images computes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from autobackbone import create_backbone, create_feature_backbone, get_input_spec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BASE = {"pretrained": False, "img_size": None}


@functools.cache
def pooled(name="test_resnet", **kwargs):
    """A pooled backbone with random weights, the same in every process."""
    torch.manual_seed(0)
    return create_backbone(name, pretrained=False, **kwargs).eval()


@functools.cache
def leveled(name="test_resnet", **kwargs):
    """A feature backbone with random weights, the same in every process."""
    torch.manual_seed(0)
    return create_feature_backbone(name, pretrained=False, **kwargs).eval()


def picture(seed: int, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """A smooth picture: one that compression changes little."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def write_pictures(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write numbered pictures of different sizes and formats."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(first, first + count):
        path = folder / f"{i:03d}.{('jpg', 'png', 'webp')[i % 3]}"
        picture(i, 30 + i % 5, 40 - i % 7).save(path)
        paths.append(path)
    return paths


def expected(backbone, images: Iterable) -> torch.Tensor:
    """The features of a plain loop: each image alone, upright, through the backbone's own transform."""
    transform = get_input_spec(backbone).transform()
    with torch.inference_mode():
        rows = []
        for image in images:
            opened = image if isinstance(image, Image.Image) else Image.open(image)
            outputs = backbone(transform(ImageOps.exif_transpose(opened))[None])
            rows.append(outputs[0] if isinstance(outputs, torch.Tensor) else [y[0] for y in outputs])
    return torch.stack(rows) if isinstance(rows[0], torch.Tensor) else rows
