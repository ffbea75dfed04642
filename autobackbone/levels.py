"""Levels: what an architecture has, what a request takes of it, and the arithmetic of sizes. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autobackbone.errors import ConfigError

DEFAULT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class NativeLevel:
    """One level that an architecture has, counted as its library counts it.

    Attributes
    ----------
    index
        Its number, from 0, shallow to deep.
    channels
        Channels of its map.
    stride
        Pixels per cell of its map.
    divisor
        What height and width must be multiples of when this is the deepest level there is.
    bound
        Whether a network that ends here takes the one size only that it was built for.
    exact
        Whether its map has ``ceil(size / stride)`` cells at multiples of `divisor`; if not, it is resampled.
    module
        Name of the module that makes it.
    """

    index: int
    channels: int
    stride: int
    divisor: int
    bound: bool
    exact: bool
    module: str


@dataclass(frozen=True)
class FeatureLevel:
    """One level that a feature backbone delivers: a map ``(B, channels, ceil(H / stride), ceil(W / stride))``.

    Attributes
    ----------
    name
        ``c1``, ``c2`` ... by stride (2, 4 ...), or ``s{stride}_{index}`` for native levels that share a stride.
    index
        The native level that it is taken from.
    channels
        Channels of its map.
    stride
        Pixels per cell of its map.
    module
        Name of the module that makes the native level.
    exact
        Whether the architecture's own grid is delivered; ``False`` if the map is resampled to the contract's size.
    """

    name: str
    index: int
    channels: int
    stride: int
    module: str
    exact: bool


class FeatureInfo(Sequence[dict[str, Any]]):
    """The levels under the interface of timm's ``FeatureInfo``, for code written for it.

    Entries are the native levels by index, then the levels made by resampling; `out_indices` says which of them the
    backbone delivers, in order.
    """

    def __init__(self, ladder: Sequence[NativeLevel], levels: Sequence[FeatureLevel]) -> None:
        self.info = [_info(level) for level in ladder]
        outputs = []
        for level in levels:
            if level.stride == ladder[level.index].stride:
                outputs.append(level.index)
            else:
                outputs.append(len(self.info))
                self.info.append(_info(level))
        self.out_indices = tuple(outputs)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return a value of the delivered levels, or of the entries named by `idx`."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """Return the entries of the delivered levels, or those named by `idx`, with all keys or `keys`."""
        if isinstance(idx, int):
            return {k: v for k, v in self.info[idx].items() if keys is None or k in keys}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the channels of the delivered levels, or of the entries named by `idx`."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the strides of the delivered levels, or of the entries named by `idx`."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the module names of the delivered levels, or of the entries named by `idx`."""
        return self.get("module", idx)

    def __getitem__(self, item: Any) -> Any:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.info)


def choose_levels(
    ladder: Sequence[NativeLevel],
    out_indices: Sequence[int] | None,
    out_strides: Sequence[int] | None,
    *,
    pyramid: str = "resample",
    output_stride: int = 32,
) -> tuple[FeatureLevel, ...]:
    """Turn a request into levels, in the order of the request.

    Parameters
    ----------
    ladder
        Every native level of the architecture.
    out_indices, out_strides
        The request; at most one is not ``None``. With neither: strides 8, 16 and 32 up to `output_stride`.
    pyramid
        ``"resample"`` makes strides that are not native; ``"none"`` refuses them.
    output_stride
        The stride that the architecture was told to stop at.

    Raises
    ------
    ConfigError
        If an index is out of range or given twice, or a stride is not native and `pyramid` is ``"none"``.
    """
    if out_indices is not None:
        return tuple(_by_index(ladder, i) for i in normalize_indices(out_indices, ladder))
    if out_strides is None:
        out_strides = [s for s in DEFAULT_STRIDES if s <= output_stride]
    return tuple(_by_stride(ladder, stride, pyramid) for stride in out_strides)


def normalize_indices(indices: Sequence[int], ladder: Sequence[NativeLevel]) -> tuple[int, ...]:
    """Return `indices` counted from 0; order is kept.

    Raises
    ------
    ConfigError
        If one is out of range, or two name the same level.
    """
    count = len(ladder)
    result: list[int] = []
    for i in indices:
        if not -count <= i < count:
            msg = f"out_indices={tuple(indices)}: there is no level {i}; {_ladder_text(ladder)}."
            raise ConfigError(msg)
        index = i % count
        if index in result:
            msg = f"out_indices={tuple(indices)} name level {index} twice; {_ladder_text(ladder)}."
            raise ConfigError(msg)
        result.append(index)
    return tuple(result)


def ceil_div(size: int, divisor: int) -> int:
    """Return ``ceil(size / divisor)`` in integers."""
    return -(-size // divisor)


def round_up(size: int, divisor: int) -> int:
    """Return the smallest multiple of `divisor` that is at least `size`."""
    return ceil_div(size, divisor) * divisor


def _info(level: NativeLevel | FeatureLevel) -> dict[str, Any]:
    return {"num_chs": level.channels, "reduction": level.stride, "module": level.module, "index": level.index}


def _ladder_text(ladder: Sequence[NativeLevel]) -> str:
    if len(ladder) > 6 and len({level.stride for level in ladder}) == 1:
        return f"its levels are 0 to {len(ladder) - 1}, all at stride {ladder[0].stride}"
    return "its levels are " + ", ".join(f"{level.index} (stride {level.stride})" for level in ladder)


def _by_index(ladder: Sequence[NativeLevel], index: int) -> FeatureLevel:
    level = ladder[index]
    rung = round(math.log2(level.stride))
    alone = [round(math.log2(other.stride)) for other in ladder].count(rung) == 1
    name = f"c{rung}" if alone else f"s{level.stride}_{index}"
    return FeatureLevel(name, index, level.channels, level.stride, level.module, level.exact)


def _by_stride(ladder: Sequence[NativeLevel], stride: int, pyramid: str) -> FeatureLevel:
    native = [level for level in ladder if level.stride == stride]
    if native:
        level = native[-1]
    elif pyramid == "none":
        strides = sorted({level.stride for level in ladder})
        msg = (
            f"Stride {stride} is not native to this backbone, whose strides are "
            f"{', '.join(map(str, strides))}; ask for those, or set pyramid='resample'."
        )
        raise ConfigError(msg)
    else:
        level = _origin(ladder, stride)
    name = f"c{int(math.log2(stride))}" if stride.bit_count() == 1 else f"s{stride}_{level.index}"
    return FeatureLevel(name, level.index, level.channels, stride, level.module, bool(native) and level.exact)


def _origin(ladder: Sequence[NativeLevel], stride: int) -> NativeLevel:
    """Return the native level that a stride is made from."""
    if len({level.stride for level in ladder}) == 1:  # depth stands in for scale: 4, 8, 16, 32 by quarters
        quarter = min(max(round(math.log2(stride)) - 1, 1), 4)
        return ladder[max(ceil_div(len(ladder) * quarter, 4), 1) - 1]
    return min(reversed(ladder), key=lambda level: abs(math.log2(level.stride / stride)))
