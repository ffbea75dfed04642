"""Near duplicates in a table of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autobackbone.errors import ConfigError
from autobackbone.extraction.arrays import unit_rows
from autobackbone.values import as_real, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autobackbone.extraction.table import FeatureTable

_ROWS = 512  # compared at once with ...
_COLUMNS = 4096  # ... so many: 8 MiB of similarities


@dataclass(frozen=True)
class Duplicate:
    """An image in a group.

    Attributes
    ----------
    id, path
        Of the image.
    content_hash
        SHA-256 of the encoded image.
    """

    id: str
    path: str
    content_hash: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are near duplicates, each of at least one other.

    Attributes
    ----------
    images
        In the order of the table.
    similarity
        Of the two images that are least alike. It may be below what was asked for: others connect the two.
    """

    images: tuple[Duplicate, ...]
    similarity: float

    @property
    def is_exact(self) -> bool:
        """Whether all images have the same content, byte for byte."""
        return len({image.content_hash for image in self.images}) == 1


def near_duplicates(
    table: FeatureTable, min_similarity: float = 0.98, column: str | None = None
) -> list[DuplicateGroup]:
    """Group images whose features are alike.

    Two images are duplicates if the cosine similarity of their features is at least `min_similarity`, or if they have
    the same content. A group is all that such pairs connect. Every image is compared with every other one; memory does
    not grow with their number squared.

    Parameters
    ----------
    table
        The table.
    min_similarity
        Above 0, at most 1.
    column
        Of features; ``None`` if there is one only.

    Returns
    -------
    list of DuplicateGroup
        Of at least two images each; the largest first, then the most similar.

    Raises
    ------
    ConfigError
        If there is no such column, or no such similarity.
    """
    least = as_real(min_similarity)
    if least is None or not 0 < least <= 1:
        msg = f"min_similarity must be above 0 and at most 1, got {shown(min_similarity)}."
        raise ConfigError(msg)
    features = table.torch(column)
    about = table.arrow(["id", "path", "content_hash"]).to_pylist()
    labels = connected(features, least, [row["content_hash"] for row in about])
    members: dict[int, list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(i)
    groups = [
        DuplicateGroup(tuple(Duplicate(**about[i]) for i in rows), _least_similarity(features, torch.tensor(rows)))
        for rows in members.values()
        if len(rows) > 1
    ]
    return sorted(groups, key=lambda group: (-len(group.images), -group.similarity))


def connected(features: Tensor, least: float, contents: Sequence[str]) -> Tensor:
    """Return the first row of the group that each row is in, ``(N,)``.

    Parameters
    ----------
    features
        ``(N, *shape)``.
    least
        Cosine similarity that connects two rows.
    contents
        Of each row: the same content connects rows, too.
    """
    first: dict[str, int] = {}
    labels = torch.tensor([first.setdefault(content, i) for i, content in enumerate(contents)], dtype=torch.int64)
    for top in range(0, len(features), _ROWS):
        rows = unit_rows(features[top : top + _ROWS])
        for left in range(top, len(features), _COLUMNS):
            alike = (rows @ unit_rows(features[left : left + _COLUMNS]).T) >= least
            pairs = alike.nonzero()
            labels = _joined(labels, pairs[:, 0] + top, pairs[:, 1] + left)
    return labels


def _joined(labels: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Join the groups of rows `a` and `b`. A label is the smallest row of a group, and its own label."""
    while True:
        low, high = torch.minimum(labels[a], labels[b]), torch.maximum(labels[a], labels[b])
        apart = low != high
        if not bool(apart.any()):
            return labels
        a, b = a[apart], b[apart]
        labels = labels.scatter_reduce(0, high[apart], low[apart], "amin")
        while bool((labels != labels[labels]).any()):
            labels = labels[labels]


def _least_similarity(features: Tensor, rows: Tensor) -> float:
    """Return the similarity of the two of some rows that are least alike, at most 1."""
    least = 1.0
    for top in range(0, len(rows), _ROWS):
        some = unit_rows(features[rows[top : top + _ROWS]])
        for left in range(top, len(rows), _COLUMNS):
            least = min(least, float((some @ unit_rows(features[rows[left : left + _COLUMNS]]).T).min()))
    return least
