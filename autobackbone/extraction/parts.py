"""Parts of a table: the rows of neighboring images, complete before they are written."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from autobackbone.extraction.columns import Column
    from autobackbone.extraction.images import ImageRef
    from autobackbone.extraction.preparation import Prepared
    from autobackbone.extraction.recipe import Recipe

ERRORS_KEY = b"autobackbone.errors"  # of the schema's metadata: the images of this part that could not be read
ERRORS_SCHEMA = pa.schema([("id", pa.string()), ("path", pa.string()), ("reason", pa.string())])
SHAPE_KEY = b"shape"  # of a field's metadata
ABOUT = ("id", "path", "width", "height", "content_hash")
_TYPES = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.bfloat16: pa.uint16()}


class Failure(NamedTuple):
    """An image without features.

    Attributes
    ----------
    id, path
        Of the image.
    reason
        Why it has none.
    """

    id: str
    path: str
    reason: str


class Layout:
    """The columns of a table in Arrow's terms.

    Parameters
    ----------
    columns
        What is kept.
    size
        ``(height, width)`` of the input of the backbone; ``None`` if every image has its own.
    dtype
        Of features. Arrow has no bfloat16: its bits are kept as unsigned integers.
    recipe
        The metadata.
    """

    def __init__(
        self, columns: Sequence[Column], size: tuple[int, int] | None, dtype: torch.dtype, recipe: Recipe
    ) -> None:
        self._arguments = columns, size, dtype, recipe
        self.shapes = {column.name: column.shape(size) for column in columns}
        self.dtype = dtype
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("path", pa.string()),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
        ]
        value = pa.field("item", _TYPES[dtype], nullable=False)
        for name, shape in self.shapes.items():
            if shape is None:
                fields.append(pa.field(name, pa.large_list(value), nullable=False))
                fields.append(pa.field(f"{name}_shape", pa.list_(pa.field("item", pa.int32(), nullable=False), 3)))
            else:
                about = {SHAPE_KEY: json.dumps(shape).encode()}
                fields.append(pa.field(name, pa.list_(value, int(np.prod(shape))), nullable=False, metadata=about))
        self.schema = pa.schema(fields, metadata=recipe.to_metadata())

    def __reduce__(self) -> Any:
        """Pickle the arguments: a pickled type of Arrow's forgets that the numbers in its lists are not nullable."""
        return (Layout, self._arguments)

    @property
    def row_bytes(self) -> int | None:
        """Bytes of the features of a row; ``None`` if images have sizes of their own."""
        if None in self.shapes.values():
            return None
        return sum(int(np.prod(shape)) for shape in self.shapes.values() if shape) * self.dtype.itemsize


class Part:
    """The rows of some images, filled in any order.

    Parameters
    ----------
    refs
        The images.
    layout
        The columns.
    first
        Position of the first image in the list of all.
    """

    def __init__(self, refs: Sequence[ImageRef], layout: Layout, first: int) -> None:
        self.refs = refs
        self.failures: dict[int, str] = {}
        self._layout = layout
        self._about: dict[int, tuple[int, int, str]] = {}
        self._values: dict[str, Any] = {
            # One matrix: small tensors that live as long as a part would lie between those of the backbone, in pieces
            # of memory that then cannot be used again.
            name: [None] * len(refs) if shape is None else torch.empty((len(refs), *shape), dtype=layout.dtype)
            for name, shape in layout.shapes.items()
        }
        # The same images give the same name. So a part that is written twice, by a worker that was given up too early
        # and by another, is one file.
        digest = sha256("\0".join(ref.id for ref in refs).encode()).hexdigest()[:16]
        self.name = f"part-{first:010d}-{digest}.parquet"

    @property
    def is_complete(self) -> bool:
        """Whether every image has its features, or a reason why it has none."""
        return len(self._about) + len(self.failures) == len(self.refs)

    @property
    def extracted(self) -> int:
        """How many images have features."""
        return len(self._about)

    def fail(self, position: int, reason: str) -> None:
        """Say why an image has no features."""
        self.failures[position] = reason

    def fill(self, position: int, prepared: Prepared, values: dict[str, Tensor]) -> None:
        """Add the features of an image, one value per column."""
        self._about[position] = prepared.width, prepared.height, prepared.content_hash
        for name, value in values.items():
            self._values[name][position] = value

    def features(self, position: int) -> dict[str, Tensor]:
        """Return the features of an image, one value per column."""
        return {name: values[position] for name, values in self._values.items()}

    @property
    def failed(self) -> list[Failure]:
        """The images without features, in order."""
        return [Failure(self.refs[i].id, self.refs[i].path, reason) for i, reason in sorted(self.failures.items())]

    def table(self) -> pa.Table:
        """Return the rows, in the order of the images, with the failures in the metadata."""
        rows = sorted(self._about)
        refs = [self.refs[i] for i in rows]
        arrays = [pa.array([ref.id for ref in refs], pa.string()), pa.array([ref.path for ref in refs], pa.string())]
        for i, kind in enumerate((pa.int32(), pa.int32(), pa.string())):
            arrays.append(pa.array([self._about[row][i] for row in rows], kind))
        for name, shape in self._layout.shapes.items():
            arrays += self._features(name, shape, rows)
        schema = self._layout.schema
        if self.failures:
            schema = schema.with_metadata(schema.metadata | {ERRORS_KEY: json.dumps(self.failed).encode()})
        return pa.Table.from_arrays(arrays, schema=schema)

    def _features(self, name: str, shape: tuple[int, ...] | None, rows: Sequence[int]) -> Iterator[Any]:
        dtype = self._layout.dtype
        if shape is not None:
            matrix = self._values[name] if len(rows) == len(self.refs) else self._values[name][list(rows)]
            numbers = pa.array(as_numpy(matrix.flatten()), _TYPES[dtype])
            yield pa.FixedSizeListArray.from_arrays(numbers, type=self._layout.schema.field(name).type)
            return
        values = [self._values[name][row] for row in rows]
        flat = torch.cat([value.flatten() for value in values]) if values else torch.empty(0, dtype=dtype)
        numbers = pa.array(as_numpy(flat), _TYPES[dtype])
        ends = np.cumsum([0, *(value.numel() for value in values)])
        yield pa.LargeListArray.from_arrays(
            pa.array(ends, pa.int64()), numbers, type=self._layout.schema.field(name).type
        )
        shapes = np.array([value.shape for value in values], dtype=np.int32).reshape(-1)
        yield pa.FixedSizeListArray.from_arrays(
            pa.array(shapes, pa.int32()), type=self._layout.schema.field(f"{name}_shape").type
        )


def as_numpy(values: Tensor) -> np.ndarray:
    """Return a tensor on the CPU as an array; bfloat16 as the bits of its numbers."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy().view(np.uint16)
    return values.numpy()


def failures_in(metadata: dict[bytes, bytes] | None) -> list[Failure]:
    """Return the failures in the metadata of a part."""
    return [Failure(*row) for row in json.loads((metadata or {}).get(ERRORS_KEY, b"[]"))]
