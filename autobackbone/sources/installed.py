"""The catalog of the installed libraries: the shipped one where it holds, measured where it does not."""

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from autobackbone.catalog import store
from autobackbone.catalog.encoding import Records
from autobackbone.catalog.records import ModelFacts, ModelRecord
from autobackbone.catalog.store import Catalog, natural_key
from autobackbone.errors import BackboneError, ConfigError, UnsupportedError
from autobackbone.names import DINOV3
from autobackbone.sources.dinov3 import published as dinov3
from autobackbone.sources.timm import registry
from autobackbone.sources.timm.registry import architectures, declared_record, is_released, registered_by_user


@functools.cache
def installed_catalog() -> Catalog:
    """Return the catalog of the installed timm: the shipped one, or the cached one of another version."""
    version = registry.timm_version()
    shipped = store.shipped()
    if shipped is not None and shipped.timm == version:
        return shipped
    catalog = store.read_cache(version) if is_released(version) else None
    if catalog is None:
        catalog = Catalog(version, Records(declared()))
        _add_to_cache(catalog)
    return catalog


def full_catalog() -> Catalog:
    """Return the catalog of the installed timm, with the architectures that the user registered in this process."""
    builders = registered_by_user()
    return _with_registered(tuple(builders.items())) if builders else installed_catalog()


def check_registered(name: str) -> None:
    """Raise ConfigError if the catalog lacks an architecture that the user registered because its config is wrong."""
    if name in registered_by_user():
        declared_record(name)


def add_record(record: ModelRecord) -> ModelRecord:
    """Add a measured record to the catalog, and to the cache for later processes; return it."""
    full_catalog().records.put(record)
    catalog = installed_catalog()
    if record.name not in registered_by_user():  # a user may register another one under this name tomorrow
        catalog.records.put(record)
        if catalog is not store.shipped():
            _add_to_cache(Catalog(catalog.timm, Records({record.name: record})))
    return record


def facts_of(architecture: str) -> ModelFacts:
    """Return the facts of an architecture in its plain form; measure them if they are not known."""
    record = full_catalog().records.get(architecture)
    if record is None:
        return measured(architecture)
    if record.facts is None:
        record = add_record(replace(record, facts=measured(architecture)))
    assert record.facts is not None
    return record.facts


def measured(architecture: str) -> ModelFacts:
    """Measure an architecture in its plain form, once in a process."""
    return _measure_once(architecture, registered_by_user().get(architecture))


def declared() -> dict[str, ModelRecord]:
    """Return a record for every backbone, with what its library declares."""
    builders = registered_by_user()
    records = {name: declared_record(name) for name in architectures() if name not in builders}
    records |= {name: dinov3.declared_record(name) for name in DINOV3}
    return {name: records[name] for name in sorted(records, key=natural_key)}


@functools.lru_cache(maxsize=1)
def _with_registered(builders: tuple[tuple[str, Callable[..., Any]], ...]) -> Catalog:
    catalog = installed_catalog()
    records = {}
    for name, _ in builders:
        with suppress(ConfigError):  # of this one alone: creating it says what is wrong
            records[name] = declared_record(name)
    others = catalog.records.without(name for name, _ in builders)
    return Catalog(catalog.timm, (others | Records(records)).sorted_by(natural_key))


@functools.cache
def _measure_once(architecture: str, builder: Callable[..., Any] | None) -> ModelFacts:
    import timm

    from autobackbone.sources.timm.measure import measure

    try:
        return measure(functools.partial(timm.create_model, architecture, num_classes=0))
    except Exception as err:
        if builder is None or isinstance(err, BackboneError):
            raise
        msg = (
            f"{architecture!r}, which {builder.__module__} registered with timm, cannot be measured "
            f"({type(err).__name__}: {err}). It must be built on torch's meta device, and have feature_info and "
            "forward_intermediates() as timm's own have."
        )
        raise UnsupportedError(msg) from err


def _add_to_cache(catalog: Catalog) -> None:
    if is_released(catalog.timm):
        store.add_to_cache(catalog)
