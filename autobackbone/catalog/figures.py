"""Published figures: how accurate weights are, and how fast architectures, as timm's repository has them.

They are data of their own: nothing of them was measured for the catalog.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import MISSING, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from autobackbone.atomic import write_text
from autobackbone.catalog.store import LOG, read_json

FILE = Path(__file__).with_name("figures.json")
SCHEMA = 1


@dataclass(frozen=True)
class Accuracy:
    """Classification accuracy of published weights with their whole classifier, in percent: not that of a detector.

    Attributes
    ----------
    size
        Height and width of the images in pixels.
    top1, top5
        On the validation set of ImageNet-1k.
    real
        Top-1 with the labels of ImageNet ReaL. ``None`` here and below: not published.
    v2
        Top-1 on ImageNetV2, matched frequency.
    sketch
        Top-1 on ImageNet-Sketch.
    a, r
        Top-1 on ImageNet-A (adversarial) and ImageNet-R (renditions), each of 200 classes.
    """

    size: int
    top1: float
    top5: float
    real: float | None = None
    v2: float | None = None
    sketch: float | None = None
    a: float | None = None
    r: float | None = None


@dataclass(frozen=True)
class Throughput:
    """Images that the whole classifier of an architecture computes in a second, by device. ``None``: not published.

    Attributes
    ----------
    size
        Height and width of the images in pixels.
    rtx4090, rtx5090, rtx_pro_6000
        NVIDIA GPUs (the last a Max-Q), mixed precision, large batches, PyTorch 2.9.
    i9_10940x
        A CPU, Intel Core i9-10940X, float32, one image at a time, compiled, PyTorch 2.4.
    """

    size: int
    rtx4090: float | None = None
    rtx5090: float | None = None
    rtx_pro_6000: float | None = None
    i9_10940x: float | None = None


DEVICES = tuple(each.name for each in fields(Throughput) if each.name != "size")
_Figure = TypeVar("_Figure", Accuracy, Throughput)


@dataclass(frozen=True)
class Figures:
    """All published figures.

    Attributes
    ----------
    source
        Where they are from: ``title``, ``url``, ``license`` and ``date``.
    accuracy
        Of weights, by their names with tags: the smallest size first.
    throughput
        Of architectures, by name.
    """

    source: Mapping[str, str] = field(default_factory=dict)
    accuracy: Mapping[str, tuple[Accuracy, ...]] = field(default_factory=dict)
    throughput: Mapping[str, tuple[Throughput, ...]] = field(default_factory=dict)

    def accuracy_at(self, weights: str, size: tuple[int, int]) -> Accuracy | None:
        """Return the accuracy of weights with images of a size; ``None`` if there is none."""
        return at_size(self.accuracy.get(weights, ()), size)

    def throughput_at(self, architecture: str, size: tuple[int, int]) -> Throughput | None:
        """Return the throughput of an architecture with images of a size; ``None`` if there is none."""
        return at_size(self.throughput.get(architecture, ()), size)


def at_size(rows: tuple[_Figure, ...], size: tuple[int, int]) -> _Figure | None:
    """Return the figures with images of a size; ``None`` if there are none."""
    return next((row for row in rows if (row.size, row.size) == tuple(size)), None)


def read(path: Path) -> Figures:
    """Read a file of figures.

    Raises
    ------
    OSError
        If there is no file, or it cannot be read.
    ValueError
        If it is damaged, or has another schema.
    """
    return read_json(path, SCHEMA, _decoded, "has figures", "has no figures")


def _decoded(content: dict[str, Any]) -> Figures:
    source = {key: _text(content["source"][key]) for key in ("title", "url", "license", "date")}
    return Figures(source, _rows(content["accuracy"], Accuracy), _rows(content["throughput"], Throughput))


def write(path: Path, figures: Figures) -> None:
    """Write a file of figures atomically, the names in order."""
    tables = (("accuracy", figures.accuracy), ("throughput", figures.throughput))
    parts = [f'"schema":{SCHEMA}', f'"source":{json.dumps(figures.source, sort_keys=True)}']
    for title, rows in tables:
        body = ",\n".join(f"{json.dumps(name)}:{_encoded(rows[name])}" for name in sorted(rows))
        parts.append(f'"{title}":{{\n{body}\n}}')
    write_text(path, f"{{{','.join(parts)}}}\n")


@functools.cache
def shipped() -> Figures:
    """Return the figures shipped with the package. If they cannot be read, log a warning and return none."""
    try:
        return read(FILE)
    except (OSError, ValueError) as err:
        LOG.warning("%s; reinstall autobackbone. Until then, there are no published figures.", err)
        return Figures()


def _rows(rows: Mapping[str, list[list[Any]]], kind: type[_Figure]) -> dict[str, tuple[_Figure, ...]]:
    required = sum(each.default is MISSING for each in fields(kind))
    for row in (row for several in rows.values() for row in several):
        numbers = [value for i, value in enumerate(row) if i < required or value is not None]
        if not isinstance(row[0], int) or not all(isinstance(value, int | float) for value in numbers):
            msg = "not the form of a row"
            raise TypeError(msg)
    return {name: tuple(kind(*row) for row in several) for name, several in rows.items()}


def _encoded(rows: tuple[Accuracy, ...] | tuple[Throughput, ...]) -> str:
    """Return rows as JSON, without what they lack at their ends."""
    encoded = []
    for row in rows:
        values = list(astuple(row))
        while values[-1] is None:
            values.pop()
        encoded.append(values)
    return json.dumps(encoded, separators=(",", ":"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        msg = "not a text"
        raise TypeError(msg)
    return value
