"""Descriptions of backbones: cards, and rows for lists, without importing torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autobackbone.catalog.card import BackboneCard
from autobackbone.catalog.figures import shipped as shipped_figures
from autobackbone.catalog.filters import published_figures
from autobackbone.catalog.records import COMMERCIAL, ModelRecord, PublishedInput, PublishedWeights
from autobackbone.catalog.store import Catalog
from autobackbone.catalog.uses import uses_of
from autobackbone.errors import UnknownBackboneError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel, choose_levels
from autobackbone.names import ModelRef, parse_name
from autobackbone.sources.installed import add_record, check_registered, full_catalog
from autobackbone.values import shown


def describe_backbone(name: str) -> BackboneCard:
    """Describe a backbone: levels, input, parameters, MACs, license and weights.

    The answer comes from the catalog, without importing torch. What the catalog lacks, for example for another version
    of timm, is measured once and stored in the user's cache folder.

    Parameters
    ----------
    name
        A model name, in any spelling that `create_feature_backbone` accepts.

    Returns
    -------
    BackboneCard
        The facts about the backbone and about the weights that the name means.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    WeightsError
        If the name is that of a repository or a folder whose config cannot be read.

    Examples
    --------
    >>> from autobackbone import describe_backbone
    >>> card = describe_backbone("resnet50")
    >>> card.params, card.strides, card.license
    (23508032, (2, 4, 8, 16, 32), 'apache-2.0')
    """
    return _card(*_resolve(name))


def preview(
    name: str, out_indices: Sequence[int] | None = None, out_strides: Sequence[int] | None = None
) -> tuple[BackboneCard, tuple[FeatureLevel, ...], InputSpec]:
    """Return the card of a backbone, and the levels and the input spec that a request would result in."""
    ref, record, weights = _resolve(name)
    levels = choose_levels(record.levels, out_indices, out_strides)
    spec = _input_spec(record, weights, max(level.index for level in levels))
    return _card(ref, record, weights), levels, spec


def summarize(name: str, device: str = "rtx4090") -> dict[str, Any]:
    """Return the columns of a list for a name from `list_backbones`, or for a name of weights.

    Values that would have to be measured first are ``None``. The throughput is that of a device.
    """
    catalog = full_catalog()
    ref = _parse(catalog, name)
    record = catalog.records[ref.name]
    weights = record.weights_of(ref.tag)
    levels = record.facts and record.facts.levels
    top1, throughput = published_figures(record, weights, device)
    return {
        "name": name,
        "source": record.source,
        "family": record.family,
        "params": record.params,
        "macs": record.macs,
        "activations": record.activations,
        "strides": levels and sorted({level.stride for level in levels}),
        "size": list((record if weights is None else weights).input.size),
        "any_size": levels and not levels[-1].fixed_size,
        "top1": top1,
        "throughput": throughput,
        "license": weights and weights.license,
        "commercial": weights and weights.license in COMMERCIAL,
        "hub_id": weights and weights.hub_id,
        "ungated": weights and weights.ungated,
        "weights": 1 if ref.tag is not None else len(record.weights),
    }


def _resolve(name: str) -> tuple[ModelRef, ModelRecord, PublishedWeights | None]:
    """Parse a name; return the reference, the complete record, and the weights that the name means."""
    catalog = full_catalog()
    ref = _parse(catalog, name)
    if ref.name in catalog.records:
        record = _complete_record(catalog, ref.name)
        return ref, record, record.weights_of(ref.tag)
    from autobackbone.catalog.survey import survey

    record = survey(str(ref))
    return ref, replace(record, weights=()), record.weights_of(None)


def _parse(catalog: Catalog, name: Any) -> ModelRef:
    if not isinstance(name, str):
        msg = f"{shown(name)} is no model name; give text, such as 'resnet50'."
        raise UnknownBackboneError(msg)
    try:
        return parse_name(name, catalog.tags)
    except UnknownBackboneError:
        check_registered(name)
        raise


def _card(ref: ModelRef, record: ModelRecord, weights: PublishedWeights | None) -> BackboneCard:
    assert record.facts is not None
    assert record.params is not None
    assert record.macs is not None
    assert record.exportable is not None
    assert record.activations is not None
    figures = shipped_figures()
    count = len(record.levels)
    return BackboneCard(
        name=str(ref),
        source=record.source,
        family=record.family,
        params=record.params,
        macs=record.macs,
        levels=choose_levels(record.levels, range(count), None),
        input_spec=_input_spec(record, weights, count - 1),
        prefix_tokens=record.facts.prefix_tokens,
        size_divisor=record.levels[-1].size_divisor,
        exportable=record.exportable,
        activations=record.activations,
        accuracy=figures.accuracy.get(weights.name, ()) if weights else (),
        throughput=figures.throughput.get(record.name, ()),
        used_by=uses_of(record.name),
        license=weights and weights.license,
        hub_id=weights and weights.hub_id,
        ungated=weights and weights.ungated,
        pretrained_tags=tuple(published.name for published in record.weights),
    )


def _input_spec(record: ModelRecord, weights: PublishedWeights | None, deepest: int) -> InputSpec:
    """Return the input spec of a backbone cut at the level `deepest`."""
    assert record.facts is not None
    level = record.levels[deepest]
    images: PublishedInput = record.input if weights is None else weights.input
    return images.to_spec(min_size=record.facts.min_size, fixed_size=level.fixed_size, size_divisor=level.size_divisor)


def measured_record(catalog: Catalog, name: str) -> ModelRecord:
    """Return the record of an architecture with at least levels, parameters, MACs and activations."""
    record = catalog.records[name]
    if record.activations is not None:
        return record
    from autobackbone.catalog.survey import measure

    return add_record(measure(name))


def _complete_record(catalog: Catalog, name: str) -> ModelRecord:
    """Return the complete record of an architecture."""
    record = measured_record(catalog, name)
    if record.exportable is not None:
        return record
    from autobackbone.catalog.survey import is_exportable

    return add_record(replace(record, exportable=is_exportable(name)))
