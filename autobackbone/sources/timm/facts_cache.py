"""What was measured of architectures with arguments: remembered in the process, and in the user's cache."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autobackbone.catalog import store
from autobackbone.catalog.encoding import check_row, decode_facts, encode_facts
from autobackbone.catalog.records import ModelFacts
from autobackbone.sources.timm.registry import is_released, registered_by_user, timm_version

_known: dict[Any, ModelFacts] = {}


def cached_facts(architecture: str, arguments: Mapping[str, Any], measure: Callable[[], ModelFacts]) -> ModelFacts:
    """Return what `measure` finds of an architecture with some arguments, which is called if that is not known.

    Parameters
    ----------
    architecture
        Of timm's registry. One that the user registered is remembered in this process alone, for as long as its builder
        is the same: it may be another one tomorrow.
    arguments
        For ``timm.create_model``. With any that is not plain data (a class of layers) nothing is remembered.
    measure
        Measures it.
    """
    text = spell(arguments)
    if text is None:
        return measure()
    builder = registered_by_user().get(architecture)
    key = (architecture, builder, text)
    if key not in _known:
        version = timm_version()
        if builder is not None or not is_released(version):
            _known[key] = measure()
        else:
            _known[key] = _kept(_path(version, architecture, text), f"{architecture} {text}", measure)
    return _known[key]


def spell(value: Any) -> str | None:
    """Return the one text of plain data, in which what Python calls equal may still differ; ``None`` for other data."""
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, Mapping) and all(type(name) is str for name in value):
        parts = [(repr(name), spell(value[name])) for name in sorted(value)]
        return None if any(text is None for _, text in parts) else f"{{{', '.join(f'{n}: {t}' for n, t in parts)}}}"
    if type(value) in (list, tuple):
        texts = [spell(item) for item in value]
        ends = "[]" if type(value) is list else "()"
        return None if None in texts else f"{ends[0]}{', '.join(filter(None, texts))}{ends[1]}"
    return None


def _path(version: str, architecture: str, text: str) -> Path:
    """Return a file of its own for each, which processes can write at once without regard for each other."""
    name = hashlib.sha256(f"{architecture} {text}".encode()).hexdigest()
    return store.cache_path(version).with_suffix("") / f"{name}.json"


def _kept(path: Path, what: str, measure: Callable[[], ModelFacts]) -> ModelFacts:
    """Return what a file holds; if that is nothing, or damaged, what is measured now, and keep it there."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["of"] == what:
            check_row(held["facts"])
            return decode_facts(held["facts"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        pass  # what is damaged is made again
    facts = measure()
    store.keep(path, json.dumps({"of": what, "facts": encode_facts(facts)}))
    return facts
