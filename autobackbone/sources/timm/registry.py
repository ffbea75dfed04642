"""The registry: what timm says of its architectures, and the catalogue that holds for the installed timm."""

import functools
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from autobackbone.catalog import store as catalog
from autobackbone.catalog.store import Catalog, Row, natural_key
from autobackbone.names import DINOV3
from autobackbone.sources.timm.facts import TimmFacts, decode, encode


def timm_version() -> str:
    """Return the version of the installed timm."""
    if "timm" not in sys.modules:
        try:
            return importlib.metadata.version("timm")  # without importing it
        except importlib.metadata.PackageNotFoundError:  # a checkout on the path
            pass
    import timm

    return str(timm.__version__)


@functools.cache
def current() -> Catalog:
    """Return the catalogue of the installed timm: the shipped one, or what is known so far of another version."""
    version = timm_version()
    known = catalog.shipped()
    if known is not None and known.timm == version:
        return known
    found = catalog.cached(version) if is_released(version) else None
    if found is None:
        found = Catalog(version, declared())
        _remember(found)
    return found


def is_released(version: str) -> bool:
    """Whether a version stays what it is: what is measured of a development version may not hold tomorrow."""
    return "dev" not in version


def _remember(found: Catalog) -> None:
    if is_released(found.timm):
        catalog.remember(found)


def with_own() -> Catalog:
    """Return the current catalogue, and in it the architectures that the user registered in this process."""
    mine = own()
    return _with_own(tuple(mine.items())) if mine else current()


@functools.lru_cache(maxsize=1)
def _with_own(mine: tuple[tuple[str, Callable[..., Any]], ...]) -> Catalog:
    rows = current().rows | {name: declared_row(name) for name, _ in mine}
    return Catalog(current().timm, {name: rows[name] for name in sorted(rows, key=natural_key)})


def own() -> dict[str, Callable[..., Any]]:
    """Return the builders that the user registered in this process, by name; none if timm is not imported."""
    if "timm" not in sys.modules:
        return {}
    from timm.models._registry import _model_entrypoints as builders  # its list takes longer than everything else here

    return {name: build for name, build in builders.items() if not build.__module__.startswith("timm.models")}


def learn(name: str, row: Row, values: Row) -> Row:
    """Add what was measured of a backbone to its row, and keep it for later processes."""
    row |= values
    known = current()
    if known is not catalog.shipped() and name not in own():  # what a user registered may be another one tomorrow
        _remember(Catalog(known.timm, {name: row}))
    return row


def facts_of(architecture: str) -> TimmFacts:
    """Look up the facts of an architecture in its plain form; measure them if they are not known."""
    row = with_own().rows.get(architecture, {})
    return decode(row if "levels" in row else learn(architecture, row, encode(measured(architecture))))


def measured(architecture: str) -> TimmFacts:
    """Measure an architecture in its plain form."""
    return _measured(architecture, own().get(architecture))


@functools.cache
def _measured(architecture: str, _builder: Callable[..., Any] | None) -> TimmFacts:
    import timm

    from autobackbone.sources.timm.measure import measure

    return measure(functools.partial(timm.create_model, architecture, num_classes=0))


class _Registry(Mapping[str, tuple[str, ...]]):
    """timm's registry: architectures, each with the tags of its published weights."""

    @property
    def _tags(self) -> Mapping[str, tuple[str, ...]]:
        return _tags(tuple(own().items()))

    def __contains__(self, name: object) -> bool:
        # without listing them all, which takes timm a while; timm ignores a tag
        import timm

        return isinstance(name, str) and "." not in name and timm.is_model(name)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self._tags[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)


@functools.lru_cache(maxsize=1)
def _tags(_mine: tuple[tuple[str, Callable[..., Any]], ...]) -> dict[str, tuple[str, ...]]:
    import timm

    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for tagged in timm.list_pretrained():
        name, _, tag = tagged.partition(".")
        tags[name].append(tag)
    return {name: tuple(found) for name, found in tags.items()}


def architectures() -> Mapping[str, tuple[str, ...]]:
    """Return every architecture of timm's registry with the tags of its published weights."""
    return _Registry()


def declared_row(architecture: str) -> Row:
    """Return what timm says of an architecture: its module, and the published weights."""
    default = published_cfg(architecture)
    tags = sorted(architectures()[architecture], key=lambda tag: tag != default.get("tag"))
    row: Row = {"family": family(architecture), "input": input_of(default), "tags": {}}
    for tag in tags:
        cfg = published_cfg(f"{architecture}.{tag}")
        usual = f"timm/{architecture}.{tag}"
        hub_id = cfg.get("hf_hub_id")
        row["tags"][tag] = [input_of(cfg), cfg.get("license"), *([] if hub_id == usual else [hub_id])]
    return row


def published_cfg(name: str) -> dict[str, Any]:
    """Return what timm says of published weights, with its defaults for what it does not say."""
    import timm

    cfg = timm.get_pretrained_cfg(name)  # none for architectures of a user's own
    return {**timm.models.PretrainedCfg().to_dict(), **({} if cfg is None else cfg.to_dict())}


def family(architecture: str) -> str:
    """Return the timm module that an architecture is of."""
    import timm

    return str(timm.model_entrypoint(architecture).__module__).rpartition(".")[2]


def input_of(cfg: Mapping[str, Any]) -> list[Any]:
    """Return the input of published weights, as the catalogue holds it."""
    mode = cfg.get("crop_mode") or "center"
    return [*cfg["input_size"], list(cfg["mean"]), list(cfg["std"]), cfg["interpolation"], cfg["crop_pct"], mode]


def declared() -> dict[str, Row]:
    """Return a row for every backbone, with what can be known without measuring."""
    mine = own()
    rows = {name: declared_row(name) for name in architectures() if name not in mine}
    known = catalog.shipped()
    if known is not None:
        rows |= {name: known.rows[name] for name in DINOV3}
    else:
        from autobackbone.sources.dinov3 import source as dinov3  # transformers takes seconds to import

        rows |= {name: dinov3.declared_row(name) for name in DINOV3}
    return {name: rows[name] for name in sorted(rows, key=natural_key)}
