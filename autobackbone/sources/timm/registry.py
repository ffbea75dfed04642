"""The registry: what timm says of its architectures, and the catalogue that holds for the installed timm."""

import functools
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from autobackbone.catalog import store
from autobackbone.catalog.encoding import Records, tagged_name
from autobackbone.catalog.records import ModelFacts, ModelRecord, PublishedInput, PublishedWeights
from autobackbone.catalog.store import Catalog, natural_key
from autobackbone.names import DINOV3


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
    known = store.shipped()
    if known is not None and known.timm == version:
        return known
    found = store.cached(version) if is_released(version) else None
    if found is None:
        found = Catalog(version, Records(declared()))
        _remember(found)
    return found


def is_released(version: str) -> bool:
    """Whether a version stays what it is: what is measured of a development version may not hold tomorrow."""
    return "dev" not in version


def _remember(found: Catalog) -> None:
    if is_released(found.timm):
        store.remember(found)


def with_own() -> Catalog:
    """Return the current catalogue, and in it the architectures that the user registered in this process."""
    mine = own()
    return _with_own(tuple(mine.items())) if mine else current()


@functools.lru_cache(maxsize=1)
def _with_own(mine: tuple[tuple[str, Callable[..., Any]], ...]) -> Catalog:
    records = current().records | Records({name: declared_record(name) for name, _ in mine})
    return Catalog(current().timm, records.sorted_by(natural_key))


def own() -> dict[str, Callable[..., Any]]:
    """Return the builders that the user registered in this process, by name; none if timm is not imported."""
    if "timm" not in sys.modules:
        return {}
    from timm.models._registry import _model_entrypoints as builders  # its list takes longer than everything else here

    return {name: build for name, build in builders.items() if not build.__module__.startswith("timm.models")}


def learn(record: ModelRecord) -> ModelRecord:
    """Take what was measured of a backbone into the catalogue, and keep it for later processes; returns it."""
    with_own().records.put(record)
    known = current()
    if record.name not in own():  # what a user registered may be another one tomorrow
        known.records.put(record)
        if known is not store.shipped():
            _remember(Catalog(known.timm, Records({record.name: record})))
    return record


def facts_of(architecture: str) -> ModelFacts:
    """Look up the facts of an architecture in its plain form; measure them if they are not known."""
    record = with_own().records.get(architecture)
    if record is None:
        return measured(architecture)
    if record.facts is None:
        record = learn(replace(record, facts=measured(architecture)))
    assert record.facts is not None
    return record.facts


def measured(architecture: str) -> ModelFacts:
    """Measure an architecture in its plain form."""
    return _measured(architecture, own().get(architecture))


@functools.cache
def _measured(architecture: str, _builder: Callable[..., Any] | None) -> ModelFacts:
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


def declared_record(architecture: str) -> ModelRecord:
    """Return what timm says of an architecture: its module, and the published weights."""
    default = published_cfg(architecture)
    tags = sorted(architectures()[architecture], key=lambda tag: tag != default.get("tag"))
    weights = []
    for tag in tags:
        name = tagged_name(architecture, tag)
        cfg = published_cfg(name)
        weights.append(PublishedWeights(name, tag, input_of(cfg), cfg.get("license"), cfg.get("hf_hub_id")))
    return ModelRecord(architecture, "timm", family(architecture), input_of(default), tuple(weights))


def published_cfg(name: str) -> dict[str, Any]:
    """Return what timm says of published weights, with its defaults for what it does not say."""
    import timm

    cfg = timm.get_pretrained_cfg(name)  # none for architectures of a user's own
    return {**timm.models.PretrainedCfg().to_dict(), **({} if cfg is None else cfg.to_dict())}


def family(architecture: str) -> str:
    """Return the timm module that an architecture is of."""
    import timm

    return str(timm.model_entrypoint(architecture).__module__).rpartition(".")[2]


def input_of(cfg: Mapping[str, Any]) -> PublishedInput:
    """Return the input of published weights."""
    in_chans, height, width = cfg["input_size"]
    return PublishedInput(
        in_chans=in_chans,
        size=(height, width),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg.get("crop_mode") or "center",
    )


def declared() -> dict[str, ModelRecord]:
    """Return a record for every backbone, with what can be known without measuring."""
    mine = own()
    records = {name: declared_record(name) for name in architectures() if name not in mine}
    known = store.shipped()
    if known is not None:
        records |= {name: known.records[name] for name in DINOV3}
    else:
        from autobackbone.sources.dinov3 import source as dinov3  # transformers takes seconds to import

        records |= {name: dinov3.declared_record(name) for name in DINOV3}
    return {name: records[name] for name in sorted(records, key=natural_key)}
