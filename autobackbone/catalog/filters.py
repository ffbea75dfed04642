"""Filters for the list of backbones: they are parsed, or refused with the valid values."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from autobackbone.config import MAX_STRIDE
from autobackbone.errors import ConfigError
from autobackbone.values import as_integer, as_items, as_python, as_real, did_you_mean, shown


def read_choices(name: str, value: Any, list_choices: Callable[[], Iterable[str]]) -> frozenset[str] | None:
    """Return the values of a filter. Raise ConfigError if one is not a known value."""
    if value is None:
        return None
    items = as_items(as_python(value))
    values = (value,) if items is None else items
    if not values:
        msg = f"{name}={shown(value)} names nothing; leave it out, or name at least one."
        raise ConfigError(msg)
    choices = sorted(list_choices())
    for item in values:
        if not isinstance(item, str) or item not in choices:
            some = f"{', '.join(choices[:12])}{' and others' if len(choices) > 12 else ''}"
            hint = did_you_mean(shown(item).strip("'").lower(), choices, f"there are {some}.", count=3)
            msg = f"{name}={shown(item)}: no backbone has that; {hint}"
            raise ConfigError(msg)
    return frozenset(values)


def check_kinds(pattern: Any, pretrained_only: Any, any_size: Any) -> None:
    """Raise ConfigError if an argument has the wrong type."""
    if not isinstance(pattern, str):
        msg = f"pattern={shown(pattern)} is no text; give a part of a name, or a glob such as '*resnet*'."
        raise ConfigError(msg)
    if not isinstance(pretrained_only, bool):
        msg = f"pretrained_only={shown(pretrained_only)} is neither True nor False."
        raise ConfigError(msg)
    if any_size is not None and not isinstance(any_size, bool):
        msg = f"any_size={shown(any_size)} is neither True, False nor None."
        raise ConfigError(msg)


def read_strides(value: Any) -> frozenset[int]:
    """Return the strides as integers. Raise ConfigError if one is not a stride."""
    items = tuple(value) if isinstance(value, str) else as_items(as_python(value))
    values = () if value is None else (as_python(value),) if items is None else items
    for item in values:
        if as_integer(item, 1, MAX_STRIDE) is None:
            msg = (
                f"strides={shown(value)}: {shown(item)} is no stride; give positive integers up to {MAX_STRIDE}, such "
                "as (4, 8, 16, 32)."
            )
            raise ConfigError(msg)
    return frozenset(map(int, values))


def read_bound(name: str, value: Any) -> float | None:
    """Return a number of parameters. Raise ConfigError if it is not one."""
    if value is None:
        return None
    number = math.inf if isinstance(value, float) and value == math.inf else as_real(value)
    if number is None or number < 0:
        msg = f"{name}={shown(value)} is no number of parameters; give one from 0 up, such as 30e6."
        raise ConfigError(msg)
    return number
