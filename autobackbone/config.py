"""The two configs: inert, validated values and their round trips through dicts, JSON and YAML."""

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from autobackbone.errors import ConfigError

PYRAMIDS = ("resample", "simple", "none")
PYRAMID_CHANNELS = 256
MAX_STRIDE = 1024
OUTPUT_STRIDES = (8, 16, 32)


class _Config:
    """What both configs can do. Subclasses are frozen dataclasses."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises
        ------
        ConfigError
            If a name is no field, or a value is not valid for its field.
        """
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in changes:
            if name not in names:
                msg = f"{type(self).__name__} has no field {name!r}{_nearest(name, names)}."
                raise ConfigError(msg)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values: tuples become lists, nothing else changes."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Make a config from a mapping of field names to values; absent fields keep their defaults.

        Raises
        ------
        ConfigError
            If a key is no field, or a value is not valid for its field.
        """
        if not isinstance(values, Mapping):
            msg = f"{cls.__name__} is made from a mapping of fields, got {type(values).__name__}."
            raise ConfigError(msg)
        return cls().replace(**{str(k): v for k, v in values.items()})

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the fields to a JSON file.

        Raises
        ------
        ConfigError
            If ``extra_kwargs`` holds something that JSON cannot.
        """
        try:
            text = json.dumps(self.to_dict(), indent=2)
        except TypeError as err:
            msg = f"extra_kwargs={self.extra_kwargs!r} cannot be written as JSON: {err}."
            raise ConfigError(msg) from err
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a config from a JSON file.

        Raises
        ------
        ConfigError
            If the file is missing, is not JSON, or does not hold a valid config.
        """
        try:
            values = json.loads(_read(path))
        except ValueError as err:
            msg = f"{os.fspath(path)!r} is not JSON: {err}."
            raise ConfigError(msg) from err
        return cls.from_dict(values)

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write the fields to a YAML file.

        Raises
        ------
        ConfigError
            If ``extra_kwargs`` holds something that YAML cannot.
        """
        import yaml

        try:
            text = yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)
        except yaml.YAMLError as err:
            msg = f"extra_kwargs={self.extra_kwargs!r} cannot be written as YAML."
            raise ConfigError(msg) from err
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read a config from a YAML file.

        Raises
        ------
        ConfigError
            If the file is missing, is not YAML, or does not hold a valid config.
        """
        import yaml

        try:
            values = yaml.safe_load(_read(path))
        except (yaml.YAMLError, ValueError) as err:
            msg = f"{os.fspath(path)!r} is not YAML: {err}."
            raise ConfigError(msg) from err
        return cls.from_dict({} if values is None else values)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # normalising on creation is the one write there is

    def _validate_common(self) -> None:
        _check(
            isinstance(self.model_name, str) and self.model_name.strip() != "",
            self,
            "model_name",
            "a model name such as 'resnet50'",
        )
        self._set("model_name", self.model_name.strip())
        _check(isinstance(self.pretrained, bool), self, "pretrained", "True or False")
        for name in ("drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            _check(_is_real(value) and 0 <= value < 1, self, name, "a rate of at least 0 and below 1")
            self._set(name, float(value))
        _check(_is_int(self.in_chans) and self.in_chans > 0, self, "in_chans", "a positive integer")
        self._set("in_chans", int(self.in_chans))
        if self.img_size is not None:
            pair = as_size(self.img_size)
            _check(pair is not None, self, "img_size", "(height, width) in pixels, or one integer for a square")
            self._set("img_size", pair)
        weights: Any = self.weights
        if isinstance(weights, os.PathLike):
            self._set("weights", os.fspath(weights))
        _check(
            self.weights is None or (isinstance(self.weights, str) and self.weights != ""),
            self,
            "weights",
            "the path of a weights file",
        )
        kwargs = self.extra_kwargs
        _check(
            isinstance(kwargs, Mapping) and all(isinstance(k, str) for k in kwargs),
            self,
            "extra_kwargs",
            "a mapping of argument names to values",
        )
        self._set("extra_kwargs", _plain(kwargs))

    # The fields that both configs have, for the methods above.
    model_name: str
    pretrained: bool
    drop_rate: float
    drop_path_rate: float
    in_chans: int
    img_size: tuple[int, int] | None
    weights: str | None
    extra_kwargs: dict[str, Any]


@dataclass(frozen=True)
class BackboneConfig(_Config):
    """A backbone with pooled output: ``(B, C, H, W)`` images to ``(B, num_features)`` or ``(B, num_classes)``.

    Parameters
    ----------
    model_name
        A timm name (``"resnet50"``, ``"resnet50.a1_in1k"``), ``"timm/..."``, a DINOv3 name (``"dinov3_vits16"``,
        ``"facebook/dinov3-..."``), ``"hf-hub:owner/repo[@revision]"`` or ``"local-dir:path"``.
    pretrained
        Take the published weights.
    num_classes
        0 for pooled features; ``n`` to end in a linear head with ``n`` outputs.
    drop_rate
        Dropout before the head, in [0, 1).
    drop_path_rate
        Stochastic depth, in [0, 1).
    in_chans
        Channels of the input images.
    img_size
        ``(height, width)`` in pixels for architectures that are built for a size; an ``int`` is a square.
    weights
        A checkpoint to take instead of the published weights: a file, a folder, ``"hf-hub:owner/repo[@revision]"`` or
        an ``https://`` address. `load_weights` says what is found in it.
    extra_kwargs
        Further arguments for ``timm.create_model``, or for the config of transformers; ``cache_dir`` is where
        downloads go.

    Raises
    ------
    ConfigError
        If a value is not valid for its field.
    """

    model_name: str = "resnet50"
    pretrained: bool = True
    num_classes: int = 0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    in_chans: int = 3
    img_size: tuple[int, int] | None = None
    weights: str | None = None
    extra_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._validate_common()
        _check(_is_int(self.num_classes) and self.num_classes >= 0, self, "num_classes", "an integer of at least 0")


@dataclass(frozen=True)
class FeatureBackboneConfig(_Config):
    """A backbone with multi-scale output: ``(B, C, H, W)`` images to a list of feature maps.

    Parameters
    ----------
    model_name
        A timm name (``"resnet50"``, ``"resnet50.a1_in1k"``), ``"timm/..."``, a DINOv3 name (``"dinov3_vits16"``,
        ``"facebook/dinov3-..."``), ``"hf-hub:owner/repo[@revision]"`` or ``"local-dir:path"``.
    pretrained
        Take the published weights.
    out_indices
        Native levels in the order wanted, counted from 0 as timm counts them; negative ones count from the end.
    out_strides
        Strides in pixels in the order wanted, such as ``(4, 8, 16, 32)``; excludes `out_indices`. With neither,
        the strides are 8, 16 and 32, as far as `output_stride` lets them.
    drop_rate
        Dropout, in [0, 1).
    drop_path_rate
        Stochastic depth, in [0, 1).
    in_chans
        Channels of the input images.
    img_size
        ``(height, width)`` in pixels that the backbone is built for; an ``int`` is a square. Architectures that are
        bound to one size then take this one; the others still take any. DINOv3 is built for no size: positions are
        rotary.
    output_stride
        32, or 8 or 16 for dilated convolutions, where the architecture can.
    pyramid
        How a stride that the architecture does not have is made: ``"resample"`` from the nearest native level
        (single-stride models: from the block at 1/4, 1/2, 3/4 or 4/4 of the depth); by ``"simple"``, ViTDet's simple
        feature pyramid, which is trained and makes every level of a single-stride model; or ``"none"``, which refuses.
    pyramid_channels
        Channels of the maps that ``pyramid="simple"`` makes; ``None`` is 256.
    norm
        The final norm on the maps of architectures that have one; ``None`` is the library's convention: timm's is
        without, transformers' DINOv3 ViTs with.
    weights
        A checkpoint to take instead of the published weights: a file, a folder, ``"hf-hub:owner/repo[@revision]"`` or
        an ``https://`` address. `load_weights` says what is found in it.
    extra_kwargs
        Further arguments for ``timm.create_model``, or for the config of transformers; ``cache_dir`` is where
        downloads go.

    Raises
    ------
    ConfigError
        If a value is not valid for its field.
    """

    model_name: str = "resnet50"
    pretrained: bool = True
    out_indices: tuple[int, ...] | None = None
    out_strides: tuple[int, ...] | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    in_chans: int = 3
    img_size: tuple[int, int] | None = None
    output_stride: int = 32
    pyramid: str = "resample"
    pyramid_channels: int | None = None
    norm: bool | None = None
    weights: str | None = None
    extra_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._validate_common()
        for name, low, high, what in (
            ("out_indices", -math.inf, math.inf, "a sequence of integers"),
            ("out_strides", 1, MAX_STRIDE, f"a sequence of integers from 1 to {MAX_STRIDE}"),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            items = _as_integers(value) or ()
            _check(bool(items) and low <= min(items) and max(items) <= high, self, name, what)
            _check(len(set(items)) == len(items), self, name, "without duplicates")
            self._set(name, items)
        if self.out_indices is not None and self.out_strides is not None:
            msg = (
                f"out_indices={self.out_indices} and out_strides={self.out_strides} exclude each other; "
                "give one of them."
            )
            raise ConfigError(msg)
        _check(
            _is_int(self.output_stride) and self.output_stride in OUTPUT_STRIDES,
            self,
            "output_stride",
            "one of 8, 16, 32",
        )
        _check(self.pyramid in PYRAMIDS, self, "pyramid", "one of 'resample', 'simple', 'none'")
        channels = self.pyramid_channels
        if channels is not None:
            _check(_is_int(channels) and channels > 0, self, "pyramid_channels", "a positive integer, or None")
            self._set("pyramid_channels", int(channels))
            if self.pyramid != "simple" or self.out_indices is not None:
                other = f"pyramid={self.pyramid!r}" if self.pyramid != "simple" else "out_indices"
                msg = f"pyramid_channels={channels} is for pyramid='simple', not for {other}; leave it out."
                raise ConfigError(msg)
        _check(self.norm is None or isinstance(self.norm, bool), self, "norm", "True, False or None")


def as_size(value: Any) -> tuple[int, int] | None:
    """Return ``(height, width)`` of a pair of positive integers, or of one for a square; ``None`` if it is neither."""
    pair = _as_integers((value, value) if _is_int(value) else value)
    return (pair[0], pair[1]) if pair is not None and len(pair) == 2 and min(pair) > 0 else None


def _check(valid: bool, config: _Config, name: str, expected: str) -> None:
    if not valid:
        msg = f"{type(config).__name__}.{name} must be {expected}, got {getattr(config, name)!r}."
        raise ConfigError(msg)


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_integers(value: object) -> tuple[int, ...] | None:
    """Return a non-empty sequence of integers as a tuple; ``None`` if `value` is none."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        return None
    items = tuple(value)
    return tuple(int(i) for i in items) if items and all(map(_is_int, items)) else None


def _plain(value: Any) -> Any:
    """Return a copy of nested containers as dicts, lists and tuples, whatever they were read from."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(map(_plain, value)) if isinstance(value, tuple) else list(map(_plain, value))
    return value


def _nearest(name: str, names: list[str]) -> str:
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; its fields are {', '.join(names)}"


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        msg = f"The config file {os.fspath(path)!r} could not be read: {err}."
        raise ConfigError(msg) from err
