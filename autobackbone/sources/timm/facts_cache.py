"""Cache of the facts measured for architectures with arguments: in the process, and in the user's cache folder."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from autobackbone.catalog import store
from autobackbone.catalog.encoding import check_row, decode_facts, encode_facts
from autobackbone.catalog.records import ModelFacts
from autobackbone.sources.timm.registry import is_released, registered_by_user, timm_version

_facts: dict[Any, ModelFacts] = {}


def cached_facts(architecture: str, arguments: Mapping[str, Any], measure: Callable[[], ModelFacts]) -> ModelFacts:
    """Return the facts about an architecture with some arguments; call `measure` if they are not cached.

    Parameters
    ----------
    architecture
        A name in timm's registry. An architecture that the user registered is cached only in this process, and only
        while its builder is the same, because the builder may change.
    arguments
        Arguments for ``timm.create_model``. With classes and functions (of layers), facts are cached only in this
        process, because other ones may have these names tomorrow. With other objects, nothing is cached.
    measure
        Measures the facts.
    """
    code: list[Any] = []
    text = canonical_text(arguments, code)
    if text is None:
        return measure()
    builder = registered_by_user().get(architecture)
    key = (architecture, builder, text, *code)
    if key not in _facts:
        version = timm_version()
        if builder is not None or code or not is_released(version):
            _facts[key] = measure()
        else:
            _facts[key] = _read_or_measure(_path(version, architecture, text), f"{architecture} {text}", measure)
    return _facts[key]


def canonical_text(value: Any, code: list[Any]) -> str | None:
    """Return a unique text for plain data, ``None`` for other data. Values that compare equal, as 1 and 1.0, differ.

    Classes and functions have no unique text. They are appended to `code`, in the order of their places in the text.
    """
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, type | FunctionType):
        code.append(value)
        return "code"
    if type(value) is partial:
        text = canonical_text([value.func, value.args, value.keywords], code)
        return None if text is None else f"partial{text}"
    if isinstance(value, Mapping) and all(type(name) is str for name in value):
        parts = [(repr(name), canonical_text(value[name], code)) for name in sorted(value)]
        return None if any(text is None for _, text in parts) else f"{{{', '.join(f'{n}: {t}' for n, t in parts)}}}"
    if type(value) in (list, tuple):
        texts = [canonical_text(item, code) for item in value]
        ends = "[]" if type(value) is list else "()"
        return None if None in texts else f"{ends[0]}{', '.join(filter(None, texts))}{ends[1]}"
    return None


def _path(version: str, architecture: str, text: str) -> Path:
    """Return a separate file for each architecture and arguments, so that processes can write without locks."""
    name = hashlib.sha256(f"{architecture} {text}".encode()).hexdigest()
    return store.cache_path(version).with_suffix("") / f"{name}.json"


def _read_or_measure(path: Path, what: str, measure: Callable[[], ModelFacts]) -> ModelFacts:
    """Return the facts in a file. If it is missing or damaged, measure them and write the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["of"] == what:
            check_row(content["facts"])
            return decode_facts(content["facts"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        pass  # a missing or damaged file is written again
    facts = measure()
    store.write_to_cache(path, json.dumps({"of": what, "facts": encode_facts(facts)}))
    return facts
