"""The catalog of facts about every backbone: shipped as data, and cached for other versions of timm."""

import contextlib
import functools
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from autobackbone.atomic import write_text
from autobackbone.catalog.encoding import (
    SCHEMA,
    Encoded,
    Records,
    check_row,
    encode_record,
    join_inputs,
    split_inputs,
    tagged_name,
)
from autobackbone.catalog.records import ModelRecord

FILE = Path(__file__).with_name("catalog.json")
LOG = logging.getLogger("autobackbone")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Catalog:
    """The facts about every backbone.

    Attributes
    ----------
    timm
        The version of timm that the facts hold for.
    records
        Records by name, in natural order.
    """

    timm: str
    records: Records = field(default_factory=Records)

    @functools.cached_property
    def tags(self) -> Mapping[str, tuple[str, ...]]:
        """Every timm architecture, with the tags of its published weights."""
        return self.records.tags()

    @functools.cached_property
    def published(self) -> list[str]:
        """Names of all published weights, in natural order. Weights without tags have the name of their model."""
        tagged = [tagged_name(name, tag) for name, tags in self.tags.items() for tag in tags]
        return sorted((*tagged, *(name for name in self.records if name not in self.tags)), key=natural_key)

    @functools.cached_property
    def families(self) -> frozenset[str]:
        """Modules of timm and model types of transformers."""
        return frozenset(record.family for record in self.records.values())

    @functools.cached_property
    def licenses(self) -> frozenset[str]:
        """Licenses that weights are published under."""
        return frozenset(w.license for record in self.records.values() for w in record.weights if w.license)


def natural_key(name: str) -> list[int | str]:
    """Return the sort key of a name: numbers count by value, as in timm."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def read(path: Path) -> Catalog:
    """Read a catalog.

    Raises
    ------
    OSError
        If there is no file, or it cannot be read.
    ValueError
        If it is damaged, or has another schema.
    """
    return read_json(path, SCHEMA, _decoded, "is a catalog", "no catalog")


def _decoded(content: dict[str, Any]) -> Catalog:
    rows: dict[str, Encoded] = content["backbones"]
    join_inputs(rows, content["inputs"])
    for row in rows.values():
        check_row(row)
    return Catalog(content["timm"], Records(rows))


def read_json(path: Path, schema: int, decode: Callable[[dict[str, Any]], _T], what: str, none: str) -> _T:
    """Read a file of data.

    Parameters
    ----------
    path
        The file.
    schema
        The schema that it must have.
    decode
        Makes what is returned, of its content.
    what, none
        What such a file is, and what another is, for messages: ``"is a catalog"``, ``"no catalog"``.

    Raises
    ------
    OSError
        If there is no file, or it cannot be read.
    ValueError
        If it is damaged, or has another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != schema:
            msg = f"{str(path)!r} {what} of schema {content['schema']!r}, not {schema}"
            raise ValueError(msg)
        return decode(content)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as err:
        msg = f"{str(path)!r} is damaged, or {none} ({type(err).__name__})"
        raise ValueError(msg) from err


def write(path: Path, catalog: Catalog) -> None:
    """Write a catalog atomically: a reader sees either the old file or the new one."""
    names = sorted(catalog.records, key=natural_key)
    inputs, rows = split_inputs({name: encode_record(catalog.records[name]) for name in names})
    lines = [f"{json.dumps(name)}:{json.dumps(row, separators=(',', ':'))}" for name, row in rows.items()]
    head = f'"schema":{SCHEMA},"timm":{json.dumps(catalog.timm)}'
    tables = (("inputs", "[]", ",\n".join(inputs)), ("backbones", "{}", ",\n".join(lines)))
    parts = (f'"{name}":{ends[0]}\n{body}\n{ends[1]}' for name, ends, body in tables)
    write_text(path, f"{{{head},{','.join(parts)}}}\n")


@functools.cache
def shipped() -> Catalog | None:
    """Return the catalog shipped with the package. If it cannot be read, log a warning and return ``None``."""
    try:
        return read(FILE)
    except (OSError, ValueError) as err:
        LOG.warning("%s; reinstall autobackbone. Until then, backbones are measured when they are asked for.", err)
        return None


def cache_path(version: str) -> Path:
    """Return the path of the cached catalog for a version of timm."""
    from platformdirs import user_cache_path

    safe = re.sub(r"[^\w.+-]", "_", version)
    return user_cache_path("autobackbone") / f"catalog-{SCHEMA}-timm-{safe}.json"


def read_cache(version: str) -> Catalog | None:
    """Return the cached catalog for a version of timm; ``None`` if there is none, or it cannot be read."""
    path = cache_path(version)
    try:
        catalog = read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as err:
        LOG.warning("%s; it is made again.", err)
        return None
    return catalog if catalog.timm == version and catalog.records else None


def add_to_cache(catalog: Catalog) -> None:
    """Add the records of `catalog` to the cache. Log a warning if that fails."""
    from filelock import FileLock

    path = cache_path(catalog.timm)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=10):
            records = Records()
            with contextlib.suppress(OSError, ValueError):
                records = read(path).records
            both = {name: merged(records.get(name), record) for name, record in catalog.records.items()}
            write(path, Catalog(catalog.timm, records | Records(both)))
    except OSError as err:  # also the timeout of the lock
        _warn_once(path.parent, err.strerror or "another process holds its lock")


def merged(old: ModelRecord | None, new: ModelRecord) -> ModelRecord:
    """Return the new record, with the older one's measured values where it has none."""
    if old is None:
        return new
    measured = ("facts", "params", "macs", "activations", "exportable")
    return replace(new, **{name: getattr(old, name) for name in measured if getattr(new, name) is None})


def write_to_cache(path: Path, text: str) -> None:
    """Write a file of the cache, and create its folder if needed. Log a warning if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as err:
        _warn_once(path.parent, str(err.strerror))


@functools.cache
def _warn_once(folder: Path, reason: str) -> None:
    LOG.warning("What was measured of backbones cannot be kept in %r: %s.", str(folder), reason)
