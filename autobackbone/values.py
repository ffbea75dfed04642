"""Values from users: parse them as plain Python, restrict them to JSON and YAML data, show them in messages."""

import difflib
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from itertools import islice
from numbers import Integral, Number, Real
from typing import Any

from autobackbone.errors import ConfigError

MAX_COUNT = 2**16  # pixels along a side; channels of an image
MAX_CHANNELS = 2**13  # of a pyramid's maps: its convolutions need memory for channels squared before loading
_MAX_INTEGER = 2**63 - 1
_MAX_VALUES = 100_000
_MAX_DEPTH = 20
_MAX_ITEMS = 10_000  # in a field; stops endless iterators
_MAX_SHOWN = 240  # characters
_MAX_COMPARED = 10_000  # choices; a comparison takes about 20 microseconds

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120
_REPR.maxtuple = _REPR.maxlist = _REPR.maxdict = 8
_REPR.maxlevel = 3


def shown(value: object) -> str:
    """Return a value as text for a message: short and on one line."""
    try:
        if isinstance(value, str) and len(value) <= _MAX_SHOWN:
            return repr(value)
        text = " ".join(_REPR.repr(value).split())
    except Exception:  # noqa: BLE001 - from a user's class, or an integer with too many digits for Python to print
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def did_you_mean(text: str, choices: Iterable[str], otherwise: str, *, count: int = 1, cutoff: float = 0.6) -> str:
    """Return the end of a message about an unknown name: the choices that are most like it, or else `otherwise`.

    Parameters
    ----------
    text
        The unknown name.
    choices
        All valid names. Of more than 10,000, only the first ones are compared.
    otherwise
        The remedy if no choice is like `text`.
    count
        Maximum number of choices to suggest.
    cutoff
        Least similarity of a suggested choice, from 0 to 1.
    """
    matches = difflib.get_close_matches(text, islice(choices, _MAX_COMPARED), n=count, cutoff=cutoff)
    return f"did you mean {' or '.join(map(repr, matches))}?" if matches else otherwise


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return the argument `name`, one of some texts.

    Raises
    ------
    ConfigError
        If it is another value.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return str(value)
    otherwise = f"it is one of {', '.join(map(repr, choices))}."
    msg = f"{name}={shown(value)}: {did_you_mean(str(value), choices, otherwise)}"
    raise ConfigError(msg)


def as_python(value: Any) -> Any:
    """Return NumPy scalars and arrays as Python values, and any other value unchanged."""
    numpy = sys.modules.get("numpy")  # such a value exists only if NumPy is imported
    if numpy is None or not isinstance(value, numpy.generic | numpy.ndarray) or value.size > _MAX_VALUES:
        return value
    return value.tolist()


def as_integer(value: Any, low: float = -_MAX_INTEGER, high: float = _MAX_INTEGER) -> int | None:
    """Return an integer between two bounds, both included; ``None`` if `value` is not one."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    number = int(value)
    return number if low <= number <= high else None


def as_real(value: Any) -> float | None:
    """Return a finite number; ``None`` if `value` is not one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_items(value: Any) -> tuple[Any, ...] | None:
    """Return the items of an iterable; ``None`` for text, mappings, endless iterables and anything else."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray | Mapping):
        return None
    try:
        items = tuple(islice(value, _MAX_ITEMS + 1))
    except Exception:  # noqa: BLE001 - from a user's iterator, or a tensor without dimensions
        return None
    return items if len(items) <= _MAX_ITEMS else None


def as_integers(value: Any) -> tuple[int, ...] | None:
    """Return a non-empty sequence of integers as a tuple; ``None`` if `value` is not one."""
    items = None if isinstance(value, AbstractSet) else as_items(value)
    if not items:
        return None
    integers = tuple(number for item in items if (number := as_integer(item)) is not None)
    return integers if len(integers) == len(items) else None


def as_size(value: Any) -> tuple[int, int] | None:
    """Return ``(height, width)`` from two positive integers, or from one for a square; ``None`` for anything else."""
    pair = as_integers((value, value) if as_integer(value) is not None else value)
    return (
        (pair[0], pair[1]) if pair is not None and len(pair) == 2 and 0 < min(pair) <= max(pair) <= MAX_COUNT else None
    )


def as_text(value: Any) -> str | None:
    """Return a string or path as text that can be written as UTF-8; ``None`` if `value` is neither."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return None
    text = str.__str__(value)  # also for subclasses, such as NumPy strings and string enumerations
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def as_path(value: Any) -> str | None:
    """Return a path that the operating system accepts; ``None`` if `value` is not one."""
    text = as_text(value)
    return None if text is None or not text or "\0" in text else text


def path_of(value: Any, name: str) -> str:
    """Return the path in the argument `name`.

    Raises
    ------
    ConfigError
        If `value` is not a path.
    """
    text = as_path(value)
    if text is None:
        msg = f"{name} must be a path, got {shown(value)}."
        raise ConfigError(msg)
    return text


def plain(value: Any, where: str, *, opaque: Callable[[str, Any], bool]) -> Any:
    """Return a copy of a value that survives a round trip through JSON and YAML.

    NumPy scalars and arrays become Python values, tuples and other sequences become lists, and paths become text.

    Parameters
    ----------
    value
        The value to copy.
    where
        Its name in messages.
    opaque
        Called with a place and the value there, if the value is not a scalar. Returns whether to keep the value
        unchanged: a class, a function ...

    Raises
    ------
    ConfigError
        If a value is not plain data and not `opaque`, or if the whole is nested too deep or too large. The message
        names the place.
    """
    return _Copier(opaque).copy(value, where, 0)


# Scalars in JSON: their types, the function that parses them, and the expected value in words.
_SCALARS: tuple[tuple[Any, Callable[[Any], Any], str], ...] = (
    (str | os.PathLike, as_text, "text in Unicode"),
    (Integral, as_integer, "an integer of at most 64 bits"),
    (Real, as_real, "a finite number"),
)


class _Copier:
    def __init__(self, opaque: Callable[[str, Any], bool]) -> None:
        self.opaque = opaque
        self.remaining = _MAX_VALUES

    def copy(self, value: Any, where: str, depth: int) -> Any:
        self._count(where, depth)
        value = as_python(value)
        if value is None or isinstance(value, bool):
            return value
        for kind, read, expected in _SCALARS:
            if isinstance(value, kind):
                return _checked(read(value), value, where, expected)
        if self.opaque(where, value):
            return value
        if isinstance(value, Mapping):
            items = self._items(value, where)
            return {_key(key, where): self.copy(item, f"{where}[{key!r}]", depth + 1) for key, item in items}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
            return [self.copy(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(self._items(value, where))]
        return _checked(None, value, where, "plain: text, a number, True, False, None, a list or a mapping")

    def _count(self, where: str, depth: int) -> None:
        self.remaining -= 1
        is_too_large = self.remaining < 0
        if is_too_large or depth > _MAX_DEPTH:
            what = f"more than {_MAX_VALUES} values" if is_too_large else f"more than {_MAX_DEPTH} levels, or itself"
            msg = f"{where.partition('[')[0]} holds {what}; give plain values that can be written by hand."
            raise ConfigError(msg)

    def _items(self, value: Any, where: str) -> list[Any]:
        try:
            return list(islice(value.items() if isinstance(value, Mapping) else value, self.remaining + 1))
        except Exception as err:  # from the user's mapping, such as an OmegaConf one with a missing value
            msg = f"{where} cannot be read: {type(err).__name__}: {' '.join(str(err).split())}."
            raise ConfigError(msg) from err


def _key(key: Any, where: str) -> str:
    text = as_text(key) if isinstance(key, str) else None
    if text is None:
        msg = f"{where} has the key {shown(key)}; keys must be text in Unicode, as JSON has no others."
        raise ConfigError(msg)
    return text


def _checked(copied: Any, value: Any, where: str, expected: str) -> Any:
    if copied is None:
        msg = f"{where} must be {expected}, got {shown(value)}."
        raise ConfigError(msg)
    return copied


def is_data(value: Any) -> bool:
    """Whether a value is data, even if JSON cannot represent it, and not a class, a function or the like."""
    kinds = (Mapping, Sequence, AbstractSet, Iterator, Number, date, time, timedelta)
    if isinstance(value, kinds) or (is_dataclass(value) and not isinstance(value, type)):
        return True
    arrays = (("numpy", "ndarray"), ("numpy", "generic"), ("torch", "Tensor"))
    return any(
        library in sys.modules and isinstance(value, getattr(sys.modules[library], kind)) for library, kind in arrays
    )
