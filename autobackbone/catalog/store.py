"""The catalogue: what is known of every backbone, shipped as data, and cached for other versions of timm."""

import contextlib
import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("catalog.json")
# Of the form of the file, and of the way in which backbones are measured: what is in caches of another is not used.
SCHEMA = 2
LOG = logging.getLogger("autobackbone")

Row = dict[str, Any]


@dataclass(frozen=True)
class Catalog:
    """What is known of every backbone.

    Attributes
    ----------
    timm
        The version of timm that it holds for.
    rows
        By name, in natural order. Of each: ``family``; ``source`` if that is not timm; ``input``: channels, height,
        width, mean, std, interpolation, crop_pct and crop_mode of the default weights; ``tags``: of each published
        weights, its default first, input, licence and, if it is not the usual one, repository. As far as it was
        measured: ``params``, ``macs``, ``exportable``, and the fields of `sources.timm_facts.encode`.
    """

    timm: str
    rows: dict[str, Row] = field(default_factory=dict)

    @functools.cached_property
    def tags(self) -> Mapping[str, tuple[str, ...]]:
        """Every timm architecture, with the tags of its published weights."""
        return {name: tuple(row["tags"]) for name, row in self.rows.items() if "source" not in row}

    @functools.cached_property
    def published(self) -> list[str]:
        """Names of all published weights in natural order; DINOv3's by the names of the models."""
        tagged = [f"{name}.{tag}" for name, tags in self.tags.items() for tag in tags]
        return sorted((*tagged, *(name for name in self.rows if name not in self.tags)), key=natural_key)

    @functools.cached_property
    def licenses(self) -> frozenset[str]:
        """Licences that weights are published under."""
        return frozenset(values[1] for row in self.rows.values() for values in row["tags"].values() if values[1])


def natural_key(name: str) -> list[int | str]:
    """Return what names are sorted by: numbers by their value, as timm sorts them."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def read(path: Path) -> Catalog:
    """Read a catalogue.

    Raises
    ------
    OSError
        If there is none.
    ValueError
        If it is damaged, or of another schema.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["schema"] != SCHEMA:
            msg = f"{str(path)!r} is a catalogue of schema {held['schema']!r}, not {SCHEMA}"
            raise ValueError(msg)
        inputs = held["inputs"]
        rows: dict[str, Row] = held["backbones"]
        for row in rows.values():
            row["input"] = inputs[row["input"]]
            row["tags"] = {tag: [inputs[values[0]], *values[1:]] for tag, values in row["tags"].items()}
            check_facts(row)
        return Catalog(held["timm"], rows)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as err:
        msg = f"{str(path)!r} is damaged, or no catalogue ({type(err).__name__})"
        raise ValueError(msg) from err


def check_facts(row: Row) -> None:
    """Raise what `read` takes for damage, if what was measured is not of the form that it is to be."""
    numbers = [row[key] for key in ("params", "macs", "min_size") if key in row]
    numbers += [level[i] for level in row.get("levels", ()) for i in range(6)]
    whole = ("macs" not in row or "params" in row) and ("levels" in row) is ("min_size" in row)
    if not whole or not isinstance(row.get("family", ""), str) or not all(isinstance(n, int) for n in numbers):
        msg = "not the form of a row"
        raise TypeError(msg)


def write(path: Path, catalog: Catalog) -> None:
    """Write a catalogue at once: who reads meanwhile sees the old file or the new one."""
    rows = {name: catalog.rows[name] for name in sorted(catalog.rows, key=natural_key)}
    given = [values for row in rows.values() for values in (row["input"], *(tag[0] for tag in row["tags"].values()))]
    inputs = sorted({json.dumps(values) for values in given})
    number = {text: i for i, text in enumerate(inputs)}

    def line(row: Row) -> str:
        tags = {tag: [number[json.dumps(values[0])], *values[1:]] for tag, values in row["tags"].items()}
        values = {key: row[key] for key in sorted(row)} | {"input": number[json.dumps(row["input"])], "tags": tags}
        return json.dumps(values, separators=(",", ":"))

    lines = [f"{json.dumps(name)}:{line(row)}" for name, row in rows.items()]
    head = f'"schema":{SCHEMA},"timm":{json.dumps(catalog.timm)}'
    tables = (("inputs", "[]", ",\n".join(inputs)), ("backbones", "{}", ",\n".join(lines)))
    parts = (f'"{name}":{ends[0]}\n{body}\n{ends[1]}' for name, ends, body in tables)
    write_text(path, f"{{{head},{','.join(parts)}}}\n")


def write_text(path: Path, text: str) -> None:
    """Write a file at once: who reads meanwhile sees the old file or the new one."""
    import tempfile  # not for those who read

    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8") as file:
        try:
            file.write(text)
            file.close()
            Path(file.name).chmod(0o644)  # temporary files are for their owner alone
            Path(file.name).replace(path)
        except BaseException:
            file.close()
            Path(file.name).unlink(missing_ok=True)
            raise


@functools.cache
def shipped() -> Catalog | None:
    """Return the catalogue that the package came with; ``None``, and a line in the log, if it cannot be read."""
    try:
        return read(FILE)
    except (OSError, ValueError) as err:
        LOG.warning("%s; reinstall autobackbone. Until then, backbones are measured when they are asked for.", err)
        return None


def cache_path(version: str) -> Path:
    """Return where what was measured of another version of timm is kept."""
    from platformdirs import user_cache_path

    safe = re.sub(r"[^\w.+-]", "_", version)
    return user_cache_path("autobackbone") / f"catalog-{SCHEMA}-timm-{safe}.json"


def cached(version: str) -> Catalog | None:
    """Return what was measured before of a version of timm; ``None`` if nothing was, or it cannot be read."""
    path = cache_path(version)
    try:
        found = read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as err:
        LOG.warning("%s; it is made again.", err)
        return None
    return found if found.timm == version and found.rows else None


def remember(catalog: Catalog) -> None:
    """Add what `catalog` knows to the cache, for this process and others; a line in the log if that cannot be done."""
    from filelock import FileLock

    path = cache_path(catalog.timm)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=10):
            held: dict[str, Row] = {}
            with contextlib.suppress(OSError, ValueError):
                held = read(path).rows
            rows = {name: held.get(name, {}) | row for name, row in catalog.rows.items()}
            write(path, Catalog(catalog.timm, held | rows))
    except OSError as err:  # a lock that is not had in time is one, too
        _warn_once(path.parent, err.strerror or "another process holds its lock")


def keep(path: Path, text: str) -> None:
    """Write a file of the cache, in a folder made if need be; a line in the log if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as err:
        _warn_once(path.parent, str(err.strerror))


@functools.cache
def _warn_once(folder: Path, reason: str) -> None:
    LOG.warning("What was measured of backbones cannot be kept in %r: %s.", str(folder), reason)
