"""Encoding: records as JSON values in the catalog file. Only this module knows the positions of values."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from autobackbone.catalog.records import ModelFacts, ModelRecord, PublishedInput, PublishedWeights
from autobackbone.levels import NativeLevel

# Version of the file format and of the measurements. Caches of another version are not used.
SCHEMA = 6

Encoded = dict[str, Any]
_USUAL_SOURCE = "timm"  # of records that name no source
_COUNTS = ("params", "macs", "activations", "exportable")
_USUAL_FACTS = ModelFacts(levels=(), min_size=None)
_FACTS = tuple(f.name for f in fields(ModelFacts) if f.name not in ("levels", "min_size"))


class Records(Mapping[str, ModelRecord]):
    """Records by name. Encoded records are decoded at first access.

    Parameters
    ----------
    values
        Records, or encoded records that `join_inputs` has completed, in order.
    """

    def __init__(self, values: Mapping[str, ModelRecord | Encoded] | None = None) -> None:
        self._values: dict[str, ModelRecord | Encoded] = dict(values or {})

    def __getitem__(self, name: str) -> ModelRecord:
        value = self._values[name]
        if isinstance(value, dict):
            value = self._values[name] = decode_record(name, value)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __or__(self, other: "Records") -> "Records":
        return Records(self._values | other._values)

    def without(self, names: Iterable[str]) -> "Records":
        """Return the records of all other names."""
        left_out = set(names)
        return Records({name: value for name, value in self._values.items() if name not in left_out})

    def sorted_by(self, key: Callable[[str], Any]) -> "Records":
        """Return the same records, with the names sorted by a key."""
        return Records({name: self._values[name] for name in sorted(self._values, key=key)})

    def put(self, record: ModelRecord) -> None:
        """Add a record, or replace the one of the same name."""
        self._values[record.name] = record

    def tags(self) -> dict[str, tuple[str, ...]]:
        """Return the tags of the published weights of every timm architecture, without decoding anything."""
        tags = {}
        for name, value in self._values.items():
            if isinstance(value, dict):
                if "source" not in value:
                    tags[name] = tuple(value["tags"])
            elif value.source == _USUAL_SOURCE:
                tags[name] = tuple(weights.tag for weights in value.weights)
        return tags


def decode_record(name: str, row: Encoded) -> ModelRecord:
    """Return the record of a row that `join_inputs` has completed."""
    return ModelRecord(
        name=name,
        source=row.get("source", _USUAL_SOURCE),
        family=row["family"],
        input=row["input"],
        weights=tuple(_decode_weights(name, tag, values) for tag, values in row["tags"].items()),
        facts=decode_facts(row) if "levels" in row else None,
        **{key: row.get(key) for key in _COUNTS},
    )


def encode_record(record: ModelRecord) -> Encoded:
    """Return a record as JSON values, except for its inputs, which `split_inputs` encodes."""
    row: Encoded = {} if record.source == _USUAL_SOURCE else {"source": record.source}
    row |= {"family": record.family, "input": record.input}
    row["tags"] = {weights.tag: _encode_weights(record.name, weights) for weights in record.weights}
    if record.facts is not None:
        row |= encode_facts(record.facts)
    return row | {key: getattr(record, key) for key in _COUNTS if getattr(record, key) is not None}


def decode_facts(row: Mapping[str, Any]) -> ModelFacts:
    """Return the facts in a row. Other values are ignored."""
    values = {name: row[name] for name in _FACTS if name in row}
    return ModelFacts(levels=_decode_levels(row["levels"]), min_size=row["min_size"], **values)


def encode_facts(facts: ModelFacts) -> Encoded:
    """Return facts as JSON values, without those that have their usual value."""
    values = {name: getattr(facts, name) for name in _FACTS}
    row = {"levels": _encode_levels(facts.levels), "min_size": facts.min_size}
    return row | {name: value for name, value in values.items() if value != getattr(_USUAL_FACTS, name)}


def check_row(row: Encoded) -> None:
    """Raise TypeError, or the error of reading a value, if the measured values of a row are malformed."""
    numbers = [row[key] for key in ("params", "macs", "activations") if key in row]
    numbers += [level[i] for level in row.get("levels", ()) for i in (0, 1, 2, 4, 5)]
    optional = [row.get("min_size"), *(level[3] for level in row.get("levels", ()))]
    numbers += [value for value in optional if value is not None]
    numbers += row.get("prefix_tokens", {}).values()
    is_complete = (
        ("macs" not in row or "params" in row)
        and ("activations" not in row or "macs" in row)
        and ("levels" in row) is ("min_size" in row)
    )
    if not is_complete or not isinstance(row.get("family", ""), str) or not all(isinstance(n, int) for n in numbers):
        msg = "not the form of a row"
        raise TypeError(msg)


def join_inputs(rows: Mapping[str, Encoded], inputs: list[list[Any]]) -> None:
    """Replace the numbers of inputs in rows by the inputs."""
    decoded = list(map(_decode_input, inputs))
    for row in rows.values():
        row["input"] = decoded[row["input"]]
        row["tags"] = {tag: [decoded[values[0]], *values[1:]] for tag, values in row["tags"].items()}


def split_inputs(rows: Mapping[str, Encoded]) -> tuple[list[str], dict[str, Encoded]]:
    """Return the distinct inputs as sorted texts, and the rows with the numbers of their inputs, keys sorted."""
    inputs = {row["input"] for row in rows.values()} | {tag[0] for row in rows.values() for tag in row["tags"].values()}
    texts = {values: json.dumps(_encode_input(values)) for values in inputs}
    number = {values: i for i, values in enumerate(sorted(inputs, key=texts.__getitem__))}

    def numbered(row: Encoded) -> Encoded:
        tags = {tag: [number[values[0]], *values[1:]] for tag, values in row["tags"].items()}
        return {key: row[key] for key in sorted(row)} | {"input": number[row["input"]], "tags": tags}

    return sorted(texts.values()), {name: numbered(row) for name, row in rows.items()}


def _decode_input(values: list[Any]) -> PublishedInput:
    in_chans, height, width, mean, std, interpolation, crop_pct, crop_mode = values
    return PublishedInput(in_chans, (height, width), tuple(mean), tuple(std), interpolation, crop_pct, crop_mode)


def _encode_input(values: PublishedInput) -> list[Any]:
    processing = (values.interpolation, values.crop_pct, values.crop_mode)
    return [values.in_chans, *values.size, list(values.mean), list(values.std), *processing]


def _decode_weights(model: str, tag: str, values: list[Any]) -> PublishedWeights:
    images, license_name, *rest = values
    hub_id, ungated = (*rest, None, None)[:2] if rest else (_usual_repo(model, tag), None)
    return PublishedWeights(tagged_name(model, tag), tag, images, license_name, hub_id, ungated)


def _encode_weights(model: str, weights: PublishedWeights) -> list[Any]:
    row = [weights.input, weights.license]
    if weights.ungated is not None:
        return [*row, weights.hub_id, weights.ungated]
    return row if weights.hub_id == _usual_repo(model, weights.tag) else [*row, weights.hub_id]


def tagged_name(model: str, tag: str) -> str:
    """Return the name of weights with a tag; a repository is a name by itself, and weights may have an empty tag."""
    if not tag:
        return model
    return tag if "/" in tag else f"{model}.{tag}"


def _usual_repo(model: str, tag: str) -> str:
    return f"timm/{model}.{tag}"


def _encode_levels(levels: tuple[NativeLevel, ...]) -> list[list[Any]]:
    """Return levels as JSON values: for each run of equal levels, their count and their values."""
    rows: list[list[Any]] = []
    for level in levels:
        pattern = ".".join("{}" if p == str(level.index) else p for p in level.module.split("."))
        row = [level.channels, level.stride, level.size_divisor, int(level.fixed_size), int(level.exact), pattern]
        if rows and rows[-1][1:] == row:
            rows[-1][0] += 1
        else:
            rows.append([1, *row])
    return rows


def _decode_levels(rows: list[list[Any]]) -> tuple[NativeLevel, ...]:
    levels: list[NativeLevel] = []
    for count, channels, stride, size_divisor, fixed_size, exact, pattern in rows:
        for _ in range(count):
            i = len(levels)
            flags = {"fixed_size": bool(fixed_size), "exact": bool(exact)}
            levels.append(NativeLevel(i, channels, stride, size_divisor, **flags, module=pattern.format(i)))
    return tuple(levels)
