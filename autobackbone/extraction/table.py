"""FeatureTable: reading a table of features as arrays, tensors, a data set or an Arrow table."""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from autobackbone.errors import ConfigError, InputError, OutputError, UnsupportedError
from autobackbone.extraction.arrays import FeatureDataset, file_for, from_bits, is_array, unit_rows, write_array
from autobackbone.extraction.output import Output, damaged
from autobackbone.extraction.parts import ABOUT, SHAPE_KEY, Failure
from autobackbone.values import as_integer, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autobackbone.extraction.output import PartFile

_ROWS = 4096  # at once, when nearest rows are looked for


class FeatureTable:
    """A table of features. Make one with `open_features`.

    Rows are in the order of the images. Images that were added later come within or after the part that they belong
    to. The folder ``features`` in the table's folder is a Parquet data set, which other libraries can read.

    Attributes
    ----------
    address : str
        The folder.
    metadata : dict
        How the features were made: ``config``, ``weights``, ``transform``, ``columns``, ``dtype``, ``versions``.
    ids : list of str
        The id of each row.
    """

    def __init__(self, address: str) -> None:
        self._output = Output(address)
        self.address = address
        parts = list(self._output.read_parts())
        if not parts:
            msg = f"There is no table of features in {shown(address)}; extract_features() makes one."
            raise InputError(msg)
        for part in parts:
            difference = parts[0].recipe.difference(part.recipe)
            if difference is not None:
                msg = f"The parts of {shown(address)} were made in different ways: {part.path} with {difference}."
                raise OutputError(msg)
            if not part.schema.equals(parts[0].schema):
                raise damaged(part.path, f"its columns differ from those of {parts[0].path}")
        self._recipe = parts[0].recipe
        self.metadata: dict[str, Any] = self._recipe.values
        self._parts = parts
        seen: set[str] = set()
        self._rows: list[np.ndarray] = []  # of each part, those whose image is in no part before
        self.ids: list[str] = []
        for part in parts:
            rows = [i for i, key in enumerate(part.ids) if key not in seen]
            seen.update(part.ids)
            self._rows.append(np.array(rows, dtype=np.int64))
            self.ids += [part.ids[i] for i in rows]
        failures = {failure.id: failure for part in parts for failure in part.failures if failure.id not in seen}
        self._failures = [failures[key] for key in sorted(failures)]
        self._schema = parts[0].schema
        self._last: tuple[PartFile, pa.Table] | None = None  # part that `row` read

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {self.shape(name) or '(C, H, W)'}" for name in self.columns)
        model = self.metadata["config"]["model_name"]
        random = "" if self.metadata["weights"]["loaded"] else ", RANDOM or own weights"
        return f"FeatureTable({self.address!r}: {len(self)} images, {columns}, {model}{random})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of features."""
        return self._recipe.columns

    @property
    def errors(self) -> list[Failure]:
        """The images without features: ``id``, ``path`` and ``reason``."""
        return list(self._failures)

    def shape(self, column: str | None = None) -> tuple[int, ...] | None:
        """Return the shape of a value: ``(C,)`` or ``(C, H, W)``; ``None`` if images have maps of different sizes.

        Raises
        ------
        ConfigError
            If there is no such column.
        """
        field = self._schema.field(self._column(column))
        text = (field.metadata or {}).get(SHAPE_KEY)
        return None if text is None else tuple(json.loads(text))

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows as an Arrow table, in memory.

        Parameters
        ----------
        columns
            Of the Parquet files, such as ``["id", "path", "width"]``; ``None`` for all.

        Raises
        ------
        ConfigError
            If there is no such column.
        """
        listed = ", ".join(map(repr, self._schema.names))
        try:
            columns = columns if columns is None else list(columns)
        except TypeError:
            msg = f"columns must be a list of names, or None, got {shown(columns)}; the table has {listed}."
            raise ConfigError(msg) from None
        for name in columns or ():
            if name not in self._schema.names:
                remedy = did_you_mean(str(name), self._schema.names, f"it has {listed}.")
                msg = f"The table has no column {shown(name)}; {remedy}"
                raise ConfigError(msg)
        tables = []
        for part, rows in zip(self._parts, self._rows, strict=True):
            table = self._output.read_part(part, columns)
            tables.append(table if len(rows) == len(table) else table.take(rows))
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def numpy(self, column: str | None = None) -> np.ndarray:
        """Return a column as a memory-mapped ``(N, *shape)`` array.

        The first call writes the column uncompressed beside the table, or to the temporary folder if the table's folder
        is remote or read-only. Later calls map that file. A bfloat16 column becomes float32 in memory; `torch` maps it.

        Parameters
        ----------
        column
            Its name; ``None`` if there is one only.

        Raises
        ------
        ConfigError
            If there is no such column, or there are several and none is named.
        UnsupportedError
            If images have maps of different sizes; read these with `row`.
        """
        array = self._mapped(self._column(column))
        return from_bits(array) if self._is_bits else array

    def torch(self, column: str | None = None) -> Tensor:
        """Return a column as a memory-mapped ``(N, *shape)`` tensor, in the table's dtype; see `numpy`.

        Changes to it are not written.
        """
        array = self._mapped(self._column(column))
        if self._is_bits:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def dataset(self, *columns: str) -> FeatureDataset:
        """Return a torch ``Dataset``. Item i is a dict: ``id``, and the memory-mapped tensor of each column.

        Parameters
        ----------
        *columns
            Their names; all, if none is named.
        """
        return FeatureDataset(self.ids, {name: self.torch(name) for name in columns or self.columns})

    def row(self, image_id: str) -> dict[str, Any]:
        """Return all of a row: ``id``, ``path``, ``width``, ``height``, ``content_hash``, and a tensor per column.

        Raises
        ------
        InputError
            If there is no such row.
        """
        place = self.position(image_id)
        for part, rows in zip(self._parts, self._rows, strict=True):
            if place >= len(rows):
                place -= len(rows)
                continue
            values = self._table_of(part).slice(int(rows[place]), 1)
            row = {name: values.column(name)[0].as_py() for name in ABOUT}
            return row | {name: self._tensor(values, name) for name in self.columns}
        raise AssertionError

    def position(self, image_id: str) -> int:
        """Return the number of a row.

        Raises
        ------
        InputError
            If there is no such row.
        """
        try:
            return self._positions[image_id]
        except (KeyError, TypeError):
            msg = (
                f"There is no image {shown(image_id)} in the table; {did_you_mean(str(image_id), self.ids, 'see ids.')}"
            )
            raise InputError(msg) from None

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image_id: i for i, image_id in enumerate(self.ids)}

    def nearest(self, query: Any, k: int = 10, column: str | None = None) -> list[tuple[str, float]]:
        """Return the rows whose features are most similar to one, by cosine similarity.

        Compares with every row. For millions of rows, use an index.

        Parameters
        ----------
        query
            A feature ``(*shape)``, or the id of a row, which is then left out.
        k
            How many rows.
        column
            Its name; ``None`` if there is one only.

        Returns
        -------
        list of (str, float)
            Ids and similarities from -1 to 1, most similar first.

        Raises
        ------
        ConfigError
            If there is no such column, the query is no feature of this shape, or `k` is no positive integer.
        InputError
            If there is no such row.
        """
        if as_integer(k, 1) is None:
            msg = f"k must be a positive integer, got {shown(k)}."
            raise ConfigError(msg)
        features = self.torch(column)
        excluded = None
        if isinstance(query, str):
            excluded = self.position(query)
            query = features[excluded]
        tensor = _as_numbers(query)
        if tensor.numel() != math.prod(features.shape[1:]):
            msg = f"The query has the shape {tuple(tensor.shape)}, features have {self.shape(column)}."
            raise ConfigError(msg)
        vector = tensor.flatten()
        if not vector.isfinite().all():
            msg = "The query holds numbers that are not finite, so it is similar to nothing; give another feature."
            raise ConfigError(msg)
        if not len(self):
            return []
        similarities = cosine_similarities(features, vector[None])[0]
        if excluded is not None:
            similarities[excluded] = -torch.inf
        best = similarities.topk(min(k, len(self) - (excluded is not None)))
        return [(self.ids[i], float(s)) for i, s in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def _table_of(self, part: PartFile) -> pa.Table:
        """Return a part. It is kept, because rows are often read one after the other."""
        last = self._last
        if last is None or last[0] is not part:
            last = self._last = part, self._output.read_part(part)
        return last[1]

    def _column(self, column: str | None) -> str:
        names = self.columns
        if column is None and len(names) == 1:
            return names[0]
        listed = ", ".join(map(repr, names))
        if column is None:
            msg = f"The table has several columns: name one of {listed}."
            raise ConfigError(msg)
        if column not in names:
            msg = f"The table has no features {shown(column)}; {did_you_mean(str(column), names, f'it has {listed}.')}"
            raise ConfigError(msg)
        return column

    def _tensor(self, table: pa.Table, name: str) -> Tensor:
        shape = self.shape(name) or tuple(table.column(f"{name}_shape")[0].as_py())
        values = np.array(table.column(name)[0].values)
        tensor = (
            torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if self._is_bits else torch.from_numpy(values)
        )
        return tensor.view(shape)

    @property
    def _is_bits(self) -> bool:
        return bool(self.metadata["dtype"] == "bfloat16")

    def _mapped(self, name: str) -> np.ndarray:
        """Return a column mapped from an uncompressed file, written if need be."""
        shape = self.shape(name)
        if shape is None:
            msg = f"The maps in {name!r} have different sizes, so they are no array; read them with row()."
            raise UnsupportedError(msg)
        kind = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[self.metadata["dtype"]]
        if not len(self):
            return np.empty((0, *shape), kind)
        path = file_for(self._output, [part.path for part in self._parts], name)
        if not is_array(path, (len(self), *shape), kind):
            write_array(path, (len(self), *shape), kind, self._values(name))
        mapped: np.ndarray = np.load(path, mmap_mode="c")  # private: changes are not written
        return mapped

    def _values(self, name: str) -> Iterator[np.ndarray]:
        for part, rows in zip(self._parts, self._rows, strict=True):
            if not len(rows):
                continue
            column = self._output.read_part(part, [name]).column(0).combine_chunks()
            column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            width = column.type.list_size  # named, as -1 is ambiguous in a part that holds failures only
            values = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), width)
            yield values if len(rows) == len(values) else values[rows]


def _as_numbers(query: Any) -> Tensor:
    """Return a query as float32 numbers on the CPU, where features are. Raise ConfigError if it is no such."""
    try:
        if not isinstance(query, Tensor):
            query = np.array(query)  # a copy: tensors take no negative strides
            query = query.astype(np.float32) if query.dtype == object and query.ndim else query
        tensor = torch.as_tensor(query, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.is_complex():
        msg = f"The query must be the id of a row or a feature of real numbers, got {shown(query)}."
        raise ConfigError(msg)
    return tensor.float()


def cosine_similarities(features: Tensor, queries: Tensor) -> Tensor:
    """Return the cosine similarity of each of ``(N, *shape)`` features to each of ``(Q, D)`` queries, ``(Q, N)``."""
    unit = unit_rows(queries)
    rows = [unit_rows(features[start : start + _ROWS]) @ unit.T for start in range(0, len(features), _ROWS)]
    return torch.cat(rows).T.contiguous()
