"""A map of a data set: its images as points, alike ones near each other, in one HTML file."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from autobackbone.atomic import write_text
from autobackbone.errors import OutputError, UnsupportedError
from autobackbone.extraction.arrays import unit_rows
from autobackbone.extraction.decoding import UnreadableError
from autobackbone.extraction.images import is_remote
from autobackbone.extraction.recipe import weights_note
from autobackbone.extraction.thumbnails import Thumbnails
from autobackbone.values import one_of, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autobackbone.extraction.table import FeatureTable

METHODS = ("pca", "umap")
_TEMPLATE = Path(__file__).with_name("map.html")
_THUMBNAIL = 88  # pixels of the longer side
_QUALITY = 70  # of their JPEGs
_ROWS = 4096  # at once
_MOST_CHANNELS = 4096  # for which the covariance matrix is decomposed
_FEWEST_FOR_UMAP = 5
_LINKED = ("http://", "https://")  # addresses that a browser opens


class Layout(NamedTuple):
    """Where the images are.

    Attributes
    ----------
    points
        ``(N, 2)``.
    axes
        What the axes are, as a sentence.
    """

    points: Tensor
    axes: str


class MapReport(NamedTuple):
    """What a page holds.

    Attributes
    ----------
    images
        How many are on it.
    thumbnails
        How many have a thumbnail.
    """

    images: int
    thumbnails: int


def write_map(
    table: FeatureTable,
    path: Path,
    *,
    column: str | None = None,
    method: str = "pca",
    thumbnails: int = 4000,
    most: int = 50_000,
) -> MapReport:
    """Write the map of a table as one page without anything outside it.

    Parameters
    ----------
    table
        The table.
    path
        The file to write. It refers to images by their place relative to it.
    column
        Of features; ``None`` if there is one only.
    method
        ``"pca"`` or ``"umap"``.
    thumbnails
        Maximum number of images with a thumbnail.
    most
        Maximum number of images. Of more, every n-th one is on the map.

    Raises
    ------
    ConfigError
        If there is no such column or method.
    UnsupportedError
        If umap-learn is not installed, or there are too few images for it.
    OutputError
        If the file cannot be written.
    """
    one_of("method", method, METHODS)
    rows = _spread(len(table), most)
    features = table.torch(column)
    chosen = features if len(rows) == len(table) else features[rows]
    layout = by_umap(chosen) if method == "umap" else by_pca(chosen)
    paths = table.arrow(["path"]).column(0).take(rows).to_pylist()
    ids = [table.ids[row] for row in rows]
    pictures = _thumbnails(paths, _spread(len(rows), thumbnails))
    _write(path, page(table, column, ids, paths, layout, pictures, str(path)))
    return MapReport(len(rows), len(pictures))


def page(
    table: FeatureTable,
    column: str | None,
    ids: Sequence[str],
    paths: Sequence[str],
    layout: Layout,
    pictures: dict[int, str],
    address: str,
) -> str:
    """Return the page. The same arguments give the same text.

    Parameters
    ----------
    table, column
        What is shown.
    ids, paths
        Of the images on it.
    layout
        Where they are.
    pictures
        Thumbnails in base64, by position.
    address
        Where the page will be.
    """
    folders = [key.rpartition("/")[0] for key in ids]
    names = [name for name, _ in sorted(Counter(folders).items(), key=lambda item: (-item[1], item[0]))]
    number = {name: i for i, name in enumerate(names)}
    facts = table.metadata
    origin = facts["weights"]["origin"]
    data = {
        "model": facts["config"]["model_name"],
        "column": column or table.columns[0],
        "weights": f"weights {origin or 'that were loaded'}" if facts["weights"]["loaded"] else "",
        "note": weights_note(facts),
        "total": len(table),
        "axes": layout.axes,
        "points": [[float(f"{x:.5g}") for x in point] for point in layout.points.tolist()],
        "ids": list(ids),
        "links": _links(paths, address),
        "folders": names,
        "folder": [number[name] for name in folders],
        "pictures": {str(i): picture for i, picture in pictures.items()},
    }
    # Only "<" can end a script element.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", text)


def by_pca(features: Tensor) -> Layout:
    """Project unit features ``(N, *shape)`` on their first two principal components."""
    flat = features.flatten(1)
    blocks = [slice(start, start + _ROWS) for start in range(0, len(flat), _ROWS)]
    mean = sum((_unit(flat[block]).sum(0) for block in blocks), torch.zeros(flat.shape[1], dtype=torch.float64))
    mean = mean / max(1, len(flat))
    count = min(2, len(flat), flat.shape[1])
    if flat.shape[1] <= _MOST_CHANNELS:
        covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
        for block in blocks:
            centered = _unit(flat[block]) - mean
            covariance += centered.T @ centered
        variances, vectors = torch.linalg.eigh(covariance)
        axes, total = vectors.flip(1)[:, :count], variances.clamp_min(0).sum()
    else:  # maps
        centered = _unit(flat) - mean
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            axes = torch.pca_lowrank(centered, q=min(8, *centered.shape), center=False, niter=8)[2][:, :count]
        total = centered.square().sum()
    points = torch.zeros(len(flat), 2, dtype=torch.float64)
    for block in blocks:
        points[block, :count] = (_unit(flat[block]) - mean) @ axes
    peaks = points.gather(0, points.abs().argmax(0, keepdim=True)) if len(flat) else points
    points = points * torch.where(peaks < 0, -1.0, 1.0)  # a fixed choice of sign
    share = float(points.square().sum() / total) if total > 0 else 1.0
    return Layout(points, f"principal components of unit features, with {share:.0%} of the variance")


def by_umap(features: Tensor) -> Layout:
    """Lay out features ``(N, *shape)`` by UMAP with cosine distances.

    Raises
    ------
    UnsupportedError
        If umap-learn is not installed, or there are too few images.
    """
    if find_spec("umap") is None:
        msg = "method='umap' needs umap-learn: pip install umap-learn, or leave the method out for PCA."
        raise UnsupportedError(msg)
    if len(features) < _FEWEST_FOR_UMAP:
        msg = f"UMAP needs at least {_FEWEST_FOR_UMAP} images, the table has {len(features)}; use PCA."
        raise UnsupportedError(msg)
    import umap

    neighbors = min(15, len(features) - 1)
    flat = features.flatten(1).float().numpy()
    reducer = umap.UMAP(n_neighbors=neighbors, metric="cosine", init="random", random_state=0, n_jobs=1)
    points = torch.from_numpy(np.asarray(reducer.fit_transform(flat), dtype=np.float64))
    return Layout(points - points.mean(0), f"UMAP with {neighbors} neighbors; distances between groups say little")


def _unit(features: Tensor) -> Tensor:
    return unit_rows(features, torch.float64)


def _spread(count: int, most: int) -> list[int]:
    """Return positions from 0 to `count`, `most` of them at most, evenly apart."""
    if count <= most:
        return list(range(count))
    return [i * count // most for i in range(most)]


def _thumbnails(paths: Sequence[str], rows: Sequence[int]) -> dict[int, str]:
    """Return thumbnails as JPEGs in base64, by position. Images that cannot be read have none."""
    reader = Thumbnails(_THUMBNAIL)

    def picture(row: int) -> str | None:
        try:
            image = reader.read(paths[row])
        except UnreadableError:
            return None
        file = BytesIO()
        image.save(file, "JPEG", quality=_QUALITY, optimize=True)
        return base64.b64encode(file.getvalue()).decode("ascii")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = pool.map(picture, rows)
        return {row: text for row, text in zip(rows, made, strict=True) if text is not None}


def _links(paths: Sequence[str], address: str) -> list[str]:
    """Return where a browser finds each image; nothing where it cannot."""
    folder = Path(address).absolute().parent
    links = []
    for path in paths:
        if is_remote(path):
            links.append(path if path.startswith(_LINKED) else "")
        elif not path or not Path(path).exists():
            links.append("")
        else:
            links.append(_relative(Path(path).absolute(), folder))
    return links


def _relative(path: Path, folder: Path) -> str:
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix().removeprefix("./")) or ""
    except ValueError:  # on another drive
        return path.as_uri()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as err:
        msg = f"{shown(str(path))} cannot be written ({err.strerror or err}); name another file."
        raise OutputError(msg) from err
