"""The fields of timm's config of published weights, and the valid values of each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autobackbone.errors import ConfigError
from autobackbone.values import MAX_COUNT, as_integer, as_path, as_real, as_text, did_you_mean, shown

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CROP_MODES = ("center", "squash", "border")
# Fields about where weights are, and how to load them.
_LOCATING = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
_MAX_CROP = 2.0  # some weights are published with crops larger than the image, which is then padded


class _InvalidError(ValueError):
    """A value is not valid for its field."""


def check_published(values: Any, where: str) -> dict[str, Any]:
    """Validate fields of timm's ``PretrainedCfg`` and return them, lists as tuples.

    Parameters
    ----------
    values
        A mapping of field names to values.
    where
        Its name in messages.

    Raises
    ------
    ConfigError
        If it is not a mapping, a name is not a field, or a value is not valid for its field.
    """
    if not isinstance(values, Mapping):
        msg = f"{where} must be a mapping of fields of timm's PretrainedCfg, got {type(values).__name__}."
        raise ConfigError(msg)
    checked = {}
    for name, value in values.items():
        if not isinstance(name, str) or name not in _FIELDS:
            remedy = did_you_mean(str(name), _FIELDS, f"its fields are {', '.join(_FIELDS)}.")
            msg = f"{where} has no field {name!r}; {remedy}"
            raise ConfigError(msg)
        expected, read = _FIELDS[name]
        try:
            checked[name] = read(value)
        except _InvalidError as err:
            msg = f"{where}[{name!r}] must be {expected}, got {shown(value)}."
            raise ConfigError(msg) from err
    return checked


def known_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that `check_published` knows, without ``None``. Another timm may have written the values."""
    return {name: value for name, value in values.items() if name in _FIELDS and value is not None}


def descriptive_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that describe weights, without their location, which a file must not choose."""
    return {name: value for name, value in values.items() if name not in _LOCATING}


def _valid(value: Any) -> Any:
    """Return a parsed value. Raise `_InvalidError` if it is ``None``."""
    if value is None:
        raise _InvalidError
    return value


def _integer(low: int, high: int) -> Callable[[Any], int]:
    return lambda value: _valid(as_integer(value, low, high))


def _number(value: Any) -> float:
    return _valid(as_real(value))  # type: ignore[no-any-return]


def _positive(value: Any) -> float:
    number = _number(value)
    return _valid(number if number > 0 else None)  # type: ignore[no-any-return]


def _crop(value: Any) -> float:
    share = _positive(value)
    return _valid(share if share <= _MAX_CROP else None)  # type: ignore[no-any-return]


def _several(read: Callable[[Any], Any], count: int | None = None) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not is_sequence or (len(value) != count if count is not None else not len(value)):
            raise _InvalidError
        return tuple(map(read, value))

    return read_all


def _text(value: Any) -> str:
    return _valid(as_text(value) if isinstance(value, str) else None)  # type: ignore[no-any-return]


def _path(value: Any) -> str:
    return _valid(as_path(value))  # type: ignore[no-any-return]


def _names(value: Any) -> Any:
    """Parse the name of a module, or several names."""
    if isinstance(value, str):
        return _text(value)
    return () if isinstance(value, Sequence) and not len(value) else _several(_text)(value)


def _flag(value: Any) -> bool:
    return _valid(value if isinstance(value, bool) else None)  # type: ignore[no-any-return]


def _loader(value: Any) -> Any:
    return "hf" if isinstance(value, str) and value == "hf" else _flag(value)


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    return lambda value: _valid(value if isinstance(value, str) and value in choices else None)


def _tensors(value: Any) -> dict[str, Any]:
    is_named = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    return dict(_valid(value if is_named else None))


def _anything(value: Any) -> Any:
    return value


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_OPTIONAL_TEXT = ("text, or None", _or_none(_text))
_SIDE = _integer(1, MAX_COUNT)
_OPTIONAL_SIZE = ("(channels, height, width), or None", _or_none(_several(_SIDE, 3)))
_OPTIONAL_POOL = ("(height, width), or None", _or_none(_several(_SIDE, 2)))
_OPTIONAL_CROP = _or_none(_crop)
_OPTIONAL_TEXTS = ("text, a sequence of texts, or None", _or_none(_names))

_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "url": _OPTIONAL_TEXT,
    "file": ("a path, or None", _or_none(_path)),
    "state_dict": ("a mapping of names to tensors, or None", _or_none(_tensors)),
    "hf_hub_id": _OPTIONAL_TEXT,
    "hf_hub_filename": _OPTIONAL_TEXT,
    "source": _OPTIONAL_TEXT,
    "architecture": _OPTIONAL_TEXT,
    "tag": _OPTIONAL_TEXT,
    "custom_load": ("True, False or 'hf'", _loader),
    "input_size": ("(channels, height, width)", _several(_SIDE, 3)),
    "test_input_size": _OPTIONAL_SIZE,
    "min_input_size": _OPTIONAL_SIZE,
    "fixed_input_size": ("True or False", _flag),
    "interpolation": (f"one of {', '.join(map(repr, INTERPOLATIONS))}", _one_of(INTERPOLATIONS)),
    "crop_pct": (f"a share above 0, at most {_MAX_CROP:g}", _crop),
    "test_crop_pct": (f"a share above 0, at most {_MAX_CROP:g}, or None", _OPTIONAL_CROP),
    "crop_mode": (f"one of {', '.join(map(repr, CROP_MODES))}", _one_of(CROP_MODES)),
    "mean": ("a sequence of finite numbers", _several(_number)),
    "std": ("a sequence of finite numbers above 0", _several(_positive)),
    "num_classes": ("an integer of at least 0", _integer(0, 2**31 - 1)),
    "label_offset": ("an integer of at least 0, or None", _or_none(_integer(0, 2**31 - 1))),
    "label_names": ("anything", _anything),  # about the head, which is removed
    "label_descriptions": ("anything", _anything),
    "pool_size": _OPTIONAL_POOL,
    "test_pool_size": _OPTIONAL_POOL,
    "first_conv": ("the name of a module, several, or None", _or_none(_names)),
    "classifier": ("the name of a module, several, or None", _or_none(_names)),
    "license": _OPTIONAL_TEXT,
    "description": _OPTIONAL_TEXT,
    "origin_url": _OPTIONAL_TEXT,
    "paper_name": _OPTIONAL_TEXT,
    "paper_ids": _OPTIONAL_TEXTS,
    "notes": _OPTIONAL_TEXTS,
}
