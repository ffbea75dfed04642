"""Filters for the list of backbones: they are parsed, or refused with the valid values."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from autobackbone.catalog import figures
from autobackbone.catalog.records import COMMERCIAL, ModelRecord, PublishedWeights
from autobackbone.catalog.store import Catalog
from autobackbone.catalog.uses import USES, uses_of
from autobackbone.config import MAX_STRIDE
from autobackbone.errors import ConfigError
from autobackbone.values import as_integer, as_items, as_python, as_real, did_you_mean, one_of, shown

SOURCES = ("timm", "dinov3")


@dataclass(frozen=True)
class Filters:
    """What a backbone must be to be listed; ``None``, or no strides: anything."""

    sources: frozenset[str] | None
    families: frozenset[str] | None
    strides: frozenset[int]
    min_params: float | None
    max_params: float | None
    any_size: bool | None
    licenses: frozenset[str] | None
    commercial: bool | None
    uses: frozenset[str] | None
    min_top1: float | None
    min_throughput: float | None
    device: str

    def accept_declared(self, record: ModelRecord, tag: str | None) -> bool:
        """Whether a backbone, with the weights of a tag, has what is known without measuring."""
        weights = record.weights_of(tag)
        license_ = weights and weights.license
        return (
            (self.sources is None or record.source in self.sources)
            and (self.families is None or record.family in self.families)
            and (self.licenses is None or license_ in self.licenses)
            and (self.commercial is None or (license_ in COMMERCIAL) is self.commercial)
            and (self.uses is None or any(self.uses & {use.method, use.task} for use in uses_of(record.name)))
            and (self.min_top1 is self.min_throughput is None or self._accept_figures(record, weights))
        )

    def _accept_figures(self, record: ModelRecord, weights: PublishedWeights | None) -> bool:
        top1, throughput = published_figures(record, weights, self.device)
        return _reaches(top1, self.min_top1) and _reaches(throughput, self.min_throughput)

    @property
    def need_declared(self) -> bool:
        """Whether anything is asked that `accept_declared` answers."""
        asked = (self.sources, self.families, self.licenses, self.commercial, self.uses)
        return any(value is not None for value in (*asked, self.min_top1, self.min_throughput))

    @property
    def need_measured(self) -> bool:
        """Whether anything is asked that `accept_measured` answers: facts to measure if the catalog lacks them."""
        return bool(self.strides) or any(x is not None for x in (self.any_size, self.min_params, self.max_params))

    def accept_measured(self, record: ModelRecord) -> bool:
        """Whether a backbone has what is measured."""
        params = record.params or 0
        return (
            self.strides.issubset(level.stride for level in record.levels)
            and (self.any_size is None or record.levels[-1].fixed_size is not self.any_size)
            and (self.min_params is None or params >= self.min_params)
            and (self.max_params is None or params <= self.max_params)
        )


def published_figures(
    record: ModelRecord, weights: PublishedWeights | None, device: str
) -> tuple[float | None, float | None]:
    """Return top-1 and images per second of a backbone, at the size that the weights were trained for.

    ``None`` is what was not published.
    """
    shipped, size = figures.shipped(), (weights or record).input.size
    accuracy = shipped.accuracy_at(weights.name, size) if weights else None
    throughput = shipped.throughput_at(record.name, size)
    return accuracy.top1 if accuracy else None, getattr(throughput, device) if throughput else None


def read_filters(
    catalog: Catalog,
    *,
    source: Any,
    family: Any,
    strides: Any,
    min_params: Any,
    max_params: Any,
    any_size: Any,
    license: Any,  # noqa: A002 - the field's word
    commercial: Any,
    used_by: Any,
    min_top1: Any,
    min_throughput: Any,
    device: Any,
) -> Filters:
    """Parse what a user asks for.

    Raises
    ------
    ConfigError
        If a filter has a value that no backbone can have.
    """
    low = _bound("min_params", min_params, "number of parameters", "30e6")
    high = _bound("max_params", max_params, "number of parameters", "30e6")
    if low is not None and high is not None and low > high:
        msg = f"min_params={min_params} is more than max_params={max_params}; exchange them."
        raise ConfigError(msg)
    return Filters(
        sources=_choices("source", source, lambda: SOURCES),
        families=_choices("family", family, lambda: catalog.families),
        strides=_strides(strides),
        min_params=low,
        max_params=high,
        any_size=_flag("any_size", any_size),
        licenses=_choices("license", license, lambda: catalog.licenses),
        commercial=_flag("commercial", commercial),
        uses=_choices("used_by", used_by, lambda: {name for use in USES for name in (use.method, use.task)}),
        min_top1=_bound("min_top1", min_top1, "percentage", "80", most=100),
        min_throughput=_bound("min_throughput", min_throughput, "number of images per second", "500"),
        device=one_of("device", device, figures.DEVICES),
    )


def check_pattern(pattern: Any, pretrained_only: Any) -> None:
    """Raise ConfigError if an argument has the wrong type."""
    if not isinstance(pattern, str):
        msg = f"pattern={shown(pattern)} is no text; give a part of a name, or a glob such as '*resnet*'."
        raise ConfigError(msg)
    if not isinstance(pretrained_only, bool):
        msg = f"pretrained_only={shown(pretrained_only)} is neither True nor False."
        raise ConfigError(msg)


def _reaches(value: float | None, least: float | None) -> bool:
    return least is None or (value is not None and value >= least)


def _choices(name: str, value: Any, list_choices: Callable[[], Iterable[str]]) -> frozenset[str] | None:
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


def _flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        msg = f"{name}={shown(value)} is neither True, False nor None."
        raise ConfigError(msg)
    return value


def _strides(value: Any) -> frozenset[int]:
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


def _bound(name: str, value: Any, what: str, example: str, most: float = math.inf) -> float | None:
    """Return a bound. Raise ConfigError if it is none."""
    if value is None:
        return None
    number = math.inf if isinstance(value, float) and value == math.inf else as_real(value)
    if number is None or not 0 <= number <= most:
        limit = "up" if most == math.inf else f"to {most:g}"
        msg = f"{name}={shown(value)} is no {what}; give one from 0 {limit}, such as {example}."
        raise ConfigError(msg)
    return number
