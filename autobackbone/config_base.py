"""The base class of both configs: it validates fields, and converts to and from dicts, JSON and YAML."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

from autobackbone.atomic import write_text
from autobackbone.errors import ConfigError
from autobackbone.values import (
    MAX_COUNT,
    as_integer,
    as_integers,
    as_path,
    as_python,
    as_real,
    as_size,
    as_text,
    did_you_mean,
    is_data,
    path_of,
    plain,
    shown,
)

# The only place in a config that may hold tensors. Such a config cannot be written to a file.
_TENSORS = "extra_kwargs['pretrained_cfg_overlay']['state_dict']"


class Config:
    """Base of both configs. Subclasses are frozen dataclasses."""

    def replace(self, /, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises
        ------
        ConfigError
            If a name is not a field, or a value is not valid for its field.
        """
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in changes:
            if name not in names:
                hint = did_you_mean(name, names, f"its fields are {', '.join(names)}.", cutoff=0.5)
                msg = f"{type(self).__name__} has no field {shown(name)}; {hint}"
                raise ConfigError(msg)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values. Tuples become lists; nothing else changes."""
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return values | {"extra_kwargs": plain(self.extra_kwargs, "extra_kwargs", opaque=_may_stay)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Create a config from a mapping of field names to values. Absent fields keep their defaults.

        Raises
        ------
        ConfigError
            If a key is not a field, or a value is not valid for its field.
        """
        if not isinstance(values, Mapping):
            msg = f"{cls.__name__} is made from a mapping of fields, got {type(values).__name__}."
            raise ConfigError(msg)
        try:
            changes = {str(k): v for k, v in values.items()}
        except Exception as err:  # from the user's mapping, such as an OmegaConf one with a missing value
            msg = f"The mapping cannot be read: {type(err).__name__}: {' '.join(str(err).split())}."
            raise ConfigError(msg) from err
        return cls().replace(**changes)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the fields to a JSON file.

        Raises
        ------
        ConfigError
            If ``extra_kwargs`` holds something that JSON cannot represent, or the file cannot be written.
        """
        _write(path, json.dumps(self._writable("JSON"), indent=2) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a config from a JSON file.

        Raises
        ------
        ConfigError
            If the file is missing, is not JSON, or does not hold a valid config.
        """
        text = _read(path)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as err:
            _refuse_file(path, "JSON", err)
        return cls.from_dict(values)

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write the fields to a YAML file.

        Raises
        ------
        ConfigError
            If ``extra_kwargs`` holds something that YAML cannot represent, or the file cannot be written.
        """
        import yaml

        _write(path, yaml.safe_dump(self._writable("YAML"), sort_keys=False, default_flow_style=None))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read a config from a YAML file.

        Raises
        ------
        ConfigError
            If the file is missing, is not YAML, or does not hold a valid config.
        """
        import yaml

        text = _read(path)
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as err:
            _refuse_file(path, "YAML", err)
        return cls.from_dict({} if values is None else values)

    def check_argument(self, name: str, field: str) -> None:
        """Refuse an argument in ``extra_kwargs`` that contradicts the field with the same meaning.

        Raises
        ------
        ConfigError
            If it does.
        """
        value, expected = self.extra_kwargs[name], getattr(self, field)
        if value != (list(expected) if isinstance(expected, tuple) else expected):
            msg = f"extra_kwargs[{name!r}]={value!r} contradicts {field}={expected!r}; set the field {field}."
            raise ConfigError(msg)

    def _writable(self, kind: str) -> dict[str, Any]:
        """Return the fields as plain values. Raise ConfigError if `extra_kwargs` has classes, functions or tensors."""
        try:
            plain(self.extra_kwargs, "extra_kwargs", opaque=lambda _where, _value: False)
        except ConfigError as err:
            msg = f"The config cannot be written as {kind}: {err}"
            raise ConfigError(msg) from err
        return self.to_dict()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # only to normalize fields on creation

    def _validate_common(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):  # type: ignore[arg-type]
            self._set(name, as_python(getattr(self, name)))
        model_name = as_text(self.model_name) or ""
        self._keep("model_name", model_name.strip() or None, "a model name such as 'resnet50'")
        self._check(isinstance(self.pretrained, bool), "pretrained", "True or False")
        for name in ("drop_rate", "drop_path_rate"):
            rate = as_real(getattr(self, name))
            self._keep(name, rate if rate is not None and 0 <= rate < 1 else None, "a rate of at least 0 and below 1")
        self._keep_count("in_chans")
        if self.img_size is not None:
            sides = as_integers(self.img_size) or as_integers((self.img_size,)) or (0,)
            self._check(max(sides) <= MAX_COUNT, "img_size", f"(height, width) in pixels, at most {MAX_COUNT} each way")
            self._keep("img_size", as_size(self.img_size), "(height, width) in pixels, or one integer for a square")
        if self.weights is not None:
            self._keep("weights", as_path(self.weights), "the path of a weights file")
        kwargs: object = self.extra_kwargs  # users may pass anything
        is_mapping = isinstance(kwargs, Mapping) and all(isinstance(k, str) for k in kwargs)
        self._check(is_mapping, "extra_kwargs", "a mapping of argument names to values")
        self._set("extra_kwargs", plain(kwargs, "extra_kwargs", opaque=_may_stay))
        cache_dir = self.extra_kwargs.get("cache_dir")
        if cache_dir is not None and as_path(cache_dir) is None:
            msg = f"extra_kwargs['cache_dir'] must be the path of a folder, or None, got {shown(cache_dir)}."
            raise ConfigError(msg)

    def _check(self, valid: bool, name: str, expected: str) -> None:
        if not valid:
            msg = f"{type(self).__name__}.{name} must be {expected}, got {shown(getattr(self, name))}."
            raise ConfigError(msg)

    def _keep(self, name: str, value: Any, expected: str) -> None:
        """Set a field to its parsed value. Raise ConfigError if that is ``None``."""
        self._check(value is not None, name, expected)
        self._set(name, value)

    def _keep_count(self, name: str, also: str = "", most: int = MAX_COUNT) -> None:
        count = as_integer(getattr(self, name), 1)
        self._keep(name, count, f"a positive integer{also}")
        self._check(count is not None and count <= most, name, f"at most {most}{also}")

    # Fields of both configs, declared for the methods above.
    model_name: str
    pretrained: bool
    drop_rate: float
    drop_path_rate: float
    in_chans: int
    img_size: tuple[int, int] | None
    weights: str | None
    extra_kwargs: dict[str, Any]


def _may_stay(where: str, value: Any) -> bool:
    return where == _TENSORS or not is_data(value)


def _read(path: Any) -> str:
    try:
        return Path(path_of(path, "path")).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except FileNotFoundError as err:
        msg = f"The config file {os.fspath(path)!r} could not be read: there is no such file, from {str(Path.cwd())!r}."
        raise ConfigError(msg) from err
    except UnicodeDecodeError as err:
        msg = f"The config file {os.fspath(path)!r} could not be read: it is not text in UTF-8 (byte {err.start})."
        raise ConfigError(msg) from err
    except OSError as err:
        msg = f"The config file {os.fspath(path)!r} could not be read: {err.strerror}."
        raise ConfigError(msg) from err


def _write(path: Any, text: str) -> None:
    try:
        write_text(Path(path_of(path, "path")), text)
    except OSError as err:
        msg = f"The config file {os.fspath(path)!r} could not be written: {err.strerror}."
        raise ConfigError(msg) from err


def _refuse_file(path: Any, kind: str, err: Exception) -> NoReturn:
    reason = "it is nested too deep" if isinstance(err, RecursionError) else " ".join(str(err).split())
    msg = f"{os.fspath(path)!r} is not {kind}: {reason}."
    raise ConfigError(msg) from err
