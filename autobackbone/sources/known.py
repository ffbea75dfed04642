"""What is known of the installed libraries' backbones: the catalog that holds for them, and what is added to it."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autobackbone.catalog import store
from autobackbone.catalog.encoding import Records
from autobackbone.catalog.records import ModelFacts, ModelRecord
from autobackbone.catalog.store import Catalog, natural_key
from autobackbone.names import DINOV3
from autobackbone.sources.dinov3 import published as dinov3
from autobackbone.sources.timm import registry
from autobackbone.sources.timm.registry import architectures, declared_record, is_released, registered_by_user


@functools.cache
def current() -> Catalog:
    """Return the catalog of the installed timm: the shipped one, or what is known so far of another version."""
    version = registry.timm_version()
    known = store.shipped()
    if known is not None and known.timm == version:
        return known
    found = store.cached(version) if is_released(version) else None
    if found is None:
        found = Catalog(version, Records(declared()))
        _remember(found)
    return found


def _remember(found: Catalog) -> None:
    if is_released(found.timm):
        store.remember(found)


def with_own() -> Catalog:
    """Return the current catalog, and in it the architectures that the user registered in this process."""
    mine = registered_by_user()
    return _with_own(tuple(mine.items())) if mine else current()


@functools.lru_cache(maxsize=1)
def _with_own(mine: tuple[tuple[str, Callable[..., Any]], ...]) -> Catalog:
    records = current().records | Records({name: declared_record(name) for name, _ in mine})
    return Catalog(current().timm, records.sorted_by(natural_key))


def learn(record: ModelRecord) -> ModelRecord:
    """Take what was measured of a backbone into the catalog, and keep it for later processes; returns it."""
    with_own().records.put(record)
    known = current()
    if record.name not in registered_by_user():  # what a user registered may be another one tomorrow
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
    return _measured(architecture, registered_by_user().get(architecture))


@functools.cache
def _measured(architecture: str, _builder: Callable[..., Any] | None) -> ModelFacts:
    import timm

    from autobackbone.sources.timm.measure import measure

    return measure(functools.partial(timm.create_model, architecture, num_classes=0))


def declared() -> dict[str, ModelRecord]:
    """Return a record for every backbone, with what can be known without measuring."""
    mine = registered_by_user()
    records = {name: declared_record(name) for name in architectures() if name not in mine}
    records |= {name: dinov3.declared_record(name) for name in DINOV3}
    return {name: records[name] for name in sorted(records, key=natural_key)}
