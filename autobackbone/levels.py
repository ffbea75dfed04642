"""Levels: those of an architecture, those of a request, and the arithmetic of sizes. Pure functions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autobackbone.config import PYRAMID_CHANNELS
from autobackbone.errors import ConfigError

DEFAULT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class NativeLevel:
    """A native level of an architecture, numbered as in its library.

    Attributes
    ----------
    index
        Its number, from 0, shallow to deep.
    channels
        Channels of its map.
    stride
        Pixels per cell of its map.
    size_divisor
        Height and width must be multiples of this in a network cut at this level; ``None`` if the network cannot be
        built for another size.
    fixed_size
        Whether a network cut at this level accepts only the size it was built for.
    exact
        Whether its map has ``ceil(size / stride)`` cells at multiples of `size_divisor`. If not, the map is resampled.
    module
        Name of the module that returns it.
    """

    index: int
    channels: int
    stride: int
    size_divisor: int | None
    fixed_size: bool
    exact: bool
    module: str


@dataclass(frozen=True)
class FeatureLevel:
    """A level that a feature backbone returns: a map ``(B, channels, ceil(H / stride), ceil(W / stride))``.

    Attributes
    ----------
    name
        ``c1``, ``c2`` ... for strides 2, 4 ...; ``s{stride}_{index}`` for strides that are not a power of two. Native
        levels that share a stride also get ``s{stride}_{index}`` if they are requested by index.
    index
        The native level that it comes from.
    channels
        Channels of its map.
    stride
        Pixels per cell of its map.
    module
        Name of the module that returns the native level.
    exact
        Whether its cells are those of the architecture's grid, or halves or doubles of them. ``False`` if the map is
        resampled to the size that the contract requires.
    method
        ``"native"``, or the pyramid that makes it from the native level: ``"resample"``, ``"simple"`` or ``"fpn"``.
    """

    name: str
    index: int
    channels: int
    stride: int
    module: str
    exact: bool
    method: str = "native"


class FeatureInfo(Sequence[dict[str, Any]]):
    """The levels with the interface of timm's ``FeatureInfo``, for code written for timm.

    Entries are the native levels by index, followed by the levels that a pyramid makes. `out_indices` are the entries
    that the backbone returns, in order.
    """

    def __init__(self, native_levels: Sequence[NativeLevel], levels: Sequence[FeatureLevel]) -> None:
        self.info = [level_info(level) for level in native_levels]
        outputs = []
        for level in levels:
            if level.method == "native":
                outputs.append(level.index)
            else:
                outputs.append(len(self.info))
                self.info.append(level_info(level))
        self.out_indices = tuple(outputs)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return one value of each output level, or of the entries at `idx`."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """Return the entries of the output levels, or those at `idx`, with all keys or only `keys`."""
        if isinstance(idx, int):
            return {k: v for k, v in self.info[idx].items() if keys is None or k in keys}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the channels of the output levels, or of the entries at `idx`."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the strides of the output levels, or of the entries at `idx`."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the module names of the output levels, or of the entries at `idx`."""
        return self.get("module", idx)

    def __getitem__(self, item: Any) -> Any:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.info)


def choose_levels(
    native_levels: Sequence[NativeLevel],
    out_indices: Sequence[int] | None,
    out_strides: Sequence[int] | None,
    *,
    pyramid: str = "resample",
    pyramid_channels: int = PYRAMID_CHANNELS,
    output_stride: int = 32,
) -> tuple[FeatureLevel, ...]:
    """Return the levels of a request, in its order.

    Parameters
    ----------
    native_levels
        Every native level of the architecture.
    out_indices, out_strides
        The request; at most one is not ``None``. With neither, the strides are 8, 16 and 32, up to `output_stride`.
    pyramid
        ``"resample"`` makes strides that are not native. ``"simple"`` does too, and also makes every stride of a
        single-stride architecture. ``"none"`` refuses strides that are not native.
    pyramid_channels
        Channels of the levels from ``"simple"``.
    output_stride
        The coarsest stride that the architecture is built for.

    Raises
    ------
    ConfigError
        If an index is out of range or occurs twice, or if `pyramid` cannot make a stride.
    """
    if out_indices is not None:
        return tuple(_by_index(native_levels, i) for i in normalize_indices(out_indices, native_levels))
    if out_strides is None:
        out_strides = [s for s in DEFAULT_STRIDES if s <= output_stride]
    return tuple(_by_stride(native_levels, stride, pyramid, pyramid_channels) for stride in out_strides)


def normalize_indices(indices: Sequence[int], native_levels: Sequence[NativeLevel]) -> tuple[int, ...]:
    """Return `indices` counted from 0, in the same order.

    Raises
    ------
    ConfigError
        If an index is out of range, or two indices mean the same level.
    """
    count = len(native_levels)
    result: list[int] = []
    for i in indices:
        if not -count <= i < count:
            msg = f"out_indices={tuple(indices)}: there is no level {i}; {_levels_text(native_levels)}."
            raise ConfigError(msg)
        index = i % count
        if index in result:
            msg = f"out_indices={tuple(indices)} name level {index} twice; {_levels_text(native_levels)}."
            raise ConfigError(msg)
        result.append(index)
    return tuple(result)


def ceil_div(size: int, divisor: int) -> int:
    """Return ``ceil(size / divisor)`` of integers from 0 up.

    No negative number is divided, because ONNX would truncate the result.
    """
    return (size + divisor - 1) // divisor


def round_up(size: int, divisor: int) -> int:
    """Return the smallest multiple of `divisor` that is at least `size`."""
    return ceil_div(size, divisor) * divisor


def doublings(stride: int, new_stride: int) -> int:
    """Return how many doublings of a map come closest to `new_stride`; a negative number counts halvings."""
    return round(math.log2(stride / new_stride))


def cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the height and width in cells of the map of images of `size` pixels."""
    return ceil_div(size[0], stride), ceil_div(size[1], stride)


def level_info(level: NativeLevel | FeatureLevel) -> dict[str, Any]:
    """Return a level as an entry of timm's ``FeatureInfo``."""
    return {"num_chs": level.channels, "reduction": level.stride, "module": level.module, "index": level.index}


def _levels_text(native_levels: Sequence[NativeLevel]) -> str:
    if len(native_levels) > 6 and _is_single(native_levels):
        return f"its levels are 0 to {len(native_levels) - 1}, all at stride {native_levels[0].stride}"
    return "its levels are " + ", ".join(f"{level.index} (stride {level.stride})" for level in native_levels)


def _by_index(native_levels: Sequence[NativeLevel], index: int) -> FeatureLevel:
    level = native_levels[index]
    is_alone = [other.stride for other in native_levels].count(level.stride) == 1
    name = _name(level.stride, index) if is_alone else f"s{level.stride}_{index}"
    return FeatureLevel(name, index, level.channels, level.stride, level.module, level.exact)


def _by_stride(native_levels: Sequence[NativeLevel], stride: int, pyramid: str, channels: int) -> FeatureLevel:
    native = [level for level in native_levels if level.stride == stride]
    if pyramid == "simple" and (_is_single(native_levels) or not native):
        return _simple(native_levels, stride, channels)
    if native:
        level = native[-1]
    elif pyramid == "none":
        strides = sorted({level.stride for level in native_levels})
        msg = (
            f"Stride {stride} is not native to this backbone, whose strides are "
            f"{', '.join(map(str, strides))}; ask for those, or set pyramid='resample' or 'simple'."
        )
        raise ConfigError(msg)
    elif _is_single(native_levels):  # depth replaces scale: strides 4, 8, 16 and 32 come from quarters of the depth
        quarter = min(max(round(math.log2(stride)) - 1, 1), 4)
        level = native_levels[max(ceil_div(len(native_levels) * quarter, 4), 1) - 1]
    else:
        level = _nearest(native_levels, stride)
    method = "native" if native else "resample"
    exact = bool(native) and level.exact
    name = _name(stride, level.index)
    return FeatureLevel(name, level.index, level.channels, stride, level.module, exact, method)


def _simple(native_levels: Sequence[NativeLevel], stride: int, channels: int) -> FeatureLevel:
    level = native_levels[-1] if _is_single(native_levels) else _nearest(native_levels, stride)
    times = doublings(level.stride, stride)
    halvings = max(-times, 0)
    if stride % 2**halvings:
        msg = (
            f"Stride {stride} cannot be made by pyramid='simple' of stride {level.stride}: halving the map "
            f"{halvings} times makes multiples of {2**halvings}; ask for one, or set pyramid='resample'."
        )
        raise ConfigError(msg)
    if level.channels >> max(times, 0) == 0:
        msg = (
            f"Stride {stride} cannot be made by pyramid='simple' of stride {level.stride}: each doubling of the map "
            f"halves its {level.channels} channels, and there are not enough; ask for a larger stride."
        )
        raise ConfigError(msg)
    exact = level.exact and level.stride == stride * 2.0**times
    name = _name(stride, level.index)
    return FeatureLevel(name, level.index, channels, stride, level.module, exact, "simple")


def _name(stride: int, index: int) -> str:
    return f"c{int(math.log2(stride))}" if stride.bit_count() == 1 else f"s{stride}_{index}"


def _is_single(native_levels: Sequence[NativeLevel]) -> bool:
    return len({level.stride for level in native_levels}) == 1


def _nearest(native_levels: Sequence[NativeLevel], stride: int) -> NativeLevel:
    return min(reversed(native_levels), key=lambda level: abs(math.log2(level.stride / stride)))
