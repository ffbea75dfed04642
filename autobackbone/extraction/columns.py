"""What is kept of an image: columns of the table, each of them the pooled feature or a level, perhaps reduced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autobackbone.errors import ConfigError
from autobackbone.values import as_items, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autobackbone.levels import FeatureLevel

POOLED = "pooled"
REDUCTIONS = ("mean", "max", "gem", "map")
_GRID = re.compile(r"grid([1-9]\d{0,2})")
_GEM_POWER = 3.0
_GEM_MIN = 1e-6


@dataclass(frozen=True)
class Column:
    """A column of features.

    Attributes
    ----------
    name
        In the table: ``pooled``, or the level and the reduction, such as ``c5_mean``.
    channels
        Of the level, or of the pooled feature.
    level
        Name of the level; ``None`` for the pooled feature.
    position
        Of the map among the outputs of the backbone.
    stride
        Of the level in pixels.
    reduction
        ``"mean"``, ``"max"``, ``"gem"``, ``"gridK"`` or ``"map"``; ``None`` for the pooled feature.
    """

    name: str
    channels: int
    level: str | None = None
    position: int = 0
    stride: int | None = None
    reduction: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the column holds, as plain values."""
        if self.level is None:
            return {"name": self.name, "channels": self.channels}
        return {
            "name": self.name,
            "channels": self.channels,
            "level": self.level,
            "stride": self.stride,
            "reduction": self.reduction,
        }

    def shape(self, size: tuple[int, int] | None) -> tuple[int, ...] | None:
        """Return the shape of a value for images of a size in pixels; ``None`` if it depends on an unknown size."""
        if self.reduction == "map":
            if size is None or self.stride is None:
                return None
            return (self.channels, -(-size[0] // self.stride), -(-size[1] // self.stride))
        grid = _grid(self.reduction)
        return (self.channels,) if grid is None else (self.channels, grid, grid)

    def reduce(self, output: Tensor) -> Tensor:
        """Reduce a ``(B, C)`` feature or a ``(B, C, H_l, W_l)`` map to ``(B, *shape)``."""
        if self.reduction in (None, "map"):
            return output
        if self.reduction == "mean":
            return output.mean((-2, -1))
        if self.reduction == "max":
            return output.amax((-2, -1))
        if self.reduction == "gem":
            return output.clamp(min=_GEM_MIN).pow(_GEM_POWER).mean((-2, -1)).pow(1 / _GEM_POWER)
        grid = _grid(self.reduction)
        assert grid is not None, "reductions are checked when columns are chosen"
        return F.adaptive_avg_pool2d(output, grid)


def pooled_columns(keep: Any, channels: int, *, has_head: bool) -> tuple[Column, ...]:
    """Return the column of a pooled backbone.

    Raises
    ------
    ConfigError
        If `keep` asks for levels.
    """
    name = "logits" if has_head else POOLED
    if keep is not None and not (isinstance(keep, str) and keep == name):
        msg = (
            f"keep={shown(keep)}: a pooled backbone has {name!r} only; for levels, create the backbone with "
            "create_feature_backbone()."
        )
        raise ConfigError(msg)
    return (Column(name, channels),)


def level_columns(keep: Any, levels: Sequence[FeatureLevel]) -> tuple[Column, ...]:
    """Return the columns of a feature backbone.

    Parameters
    ----------
    keep
        As `extract_features` takes it; ``None`` for the mean of each level.
    levels
        Of the backbone.

    Raises
    ------
    ConfigError
        If there is no such level or reduction, or if nothing is kept.
    """
    if isinstance(keep, str) and keep == POOLED:
        msg = "keep='pooled': a feature backbone has levels only; create the backbone with create_backbone()."
        raise ConfigError(msg)
    by_name = {level.name: i for i, level in enumerate(levels)}
    wanted = keep if isinstance(keep, Mapping) else dict.fromkeys(by_name, "mean" if keep is None else keep)
    columns = []
    for name, reductions in wanted.items():
        if name not in by_name:
            otherwise = f"its levels are {', '.join(map(repr, by_name))}."
            remedy = did_you_mean(str(name), by_name, otherwise)
            msg = f"keep={shown(keep)}: the backbone has no level {shown(name)}; {remedy}"
            raise ConfigError(msg)
        level = levels[by_name[name]]
        several = as_items(reductions)
        several = (reductions,) if several is None else several
        for reduction in several:
            _check_reduction(reduction, keep)
        columns += [
            Column(f"{name}_{reduction}", level.channels, name, by_name[name], level.stride, reduction)
            for reduction in dict.fromkeys(several)
        ]
    if not columns:
        msg = f"keep={shown(keep)} keeps nothing; name a reduction of a level, such as {{'c5': 'mean'}}."
        raise ConfigError(msg)
    return tuple(columns)


def reduce_outputs(columns: Sequence[Column], outputs: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the value of each column for a batch, ``(B, *shape)`` on the CPU.

    Parameters
    ----------
    columns
        The columns.
    outputs
        What the backbone returned: ``(B, C)``, or one map per level.
    dtype
        Of the values.
    """
    reduced = {}
    for column in columns:
        output = outputs if isinstance(outputs, Tensor) else outputs[column.position]
        output = output if column.reduction in (None, "map") else output.float()
        reduced[column.name] = column.reduce(output).to(dtype)
    return {name: value.cpu().contiguous() for name, value in reduced.items()}


def _check_reduction(reduction: Any, keep: Any) -> None:
    if not isinstance(reduction, str) or (reduction not in REDUCTIONS and _grid(reduction) is None):
        otherwise = "it is one of 'mean', 'max', 'gem', 'map', or 'grid2', 'grid3' and so on."
        remedy = did_you_mean(str(reduction), REDUCTIONS, otherwise)
        msg = f"keep={shown(keep)}: {shown(reduction)} is no reduction; {remedy}"
        raise ConfigError(msg)


def _grid(reduction: str | None) -> int | None:
    match = _GRID.fullmatch(reduction or "")
    return int(match[1]) if match else None
