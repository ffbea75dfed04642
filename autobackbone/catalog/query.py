"""Discovery: list and describe backbones, from the catalog and without importing torch."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autobackbone.catalog.card import BackboneCard
from autobackbone.catalog.filters import check_kinds, read_bound, read_choices, read_strides
from autobackbone.catalog.records import ModelRecord, PublishedInput, PublishedWeights
from autobackbone.catalog.store import LOG, Catalog
from autobackbone.errors import ConfigError, UnknownBackboneError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel, choose_levels
from autobackbone.names import ModelRef, nearest, parse_name
from autobackbone.sources.installed import add_record, check_registered, full_catalog
from autobackbone.values import shown

SOURCES = ("timm", "dinov3")


def list_backbones(
    pattern: str = "",
    pretrained_only: bool = False,
    *,
    source: str | Sequence[str] | None = None,
    family: str | Sequence[str] | None = None,
    strides: int | Sequence[int] | None = None,
    min_params: float | None = None,
    max_params: float | None = None,
    any_size: bool | None = None,
    license: str | Sequence[str] | None = None,  # noqa: A002 - the field's word
) -> list[str]:
    """List the names of backbones in natural order: ``resnet9`` before ``resnet10``.

    Parameters
    ----------
    pattern
        A glob such as ``"*resnet*"``, or a part of the name; empty for all. Case does not matter.
    pretrained_only
        List only backbones with published weights. timm's names then have the tags of the weights, as in
        ``resnet50.a1_in1k``.
    source
        ``"timm"`` or ``"dinov3"``, or both.
    family
        timm's module, such as ``"resnet"``, or several.
    strides
        Native strides that a backbone must have, all of them.
    min_params, max_params
        Bounds, both included, for the number of parameters without a classifier.
    any_size
        ``True`` for backbones that accept images of any size; ``False`` for those that are built for one size.
    license
        License of the weights that the name means, or several, such as ``("apache-2.0", "mit")``. A name without a
        tag means the default weights.

    Returns
    -------
    list of str
        The names that ``timm.list_models`` of the installed timm returns, and the short names of the DINOv3 models.

    Raises
    ------
    ConfigError
        If a filter has a value that no backbone can have.

    Examples
    --------
    >>> from autobackbone import list_backbones
    >>> list_backbones("resnet1?d")
    ['resnet18d']
    >>> list_backbones("convnext_", strides=4, max_params=4e6, any_size=True, license="apache-2.0")
    ['convnext_atto', 'convnext_atto_ols', 'convnext_zepto_rms', 'convnext_zepto_rms_ols']
    """
    catalog = full_catalog()
    check_kinds(pattern, pretrained_only, any_size)
    sources = read_choices("source", source, lambda: SOURCES)
    families = read_choices("family", family, lambda: catalog.families)
    licenses = read_choices("license", license, lambda: catalog.licenses)
    required_strides = read_strides(strides)
    low, high = read_bound("min_params", min_params), read_bound("max_params", max_params)
    if low is not None and high is not None and low > high:
        msg = f"min_params={min_params} is more than max_params={max_params}; exchange them."
        raise ConfigError(msg)

    def matches_declared(name: str) -> bool:
        architecture, _, tag = name.partition(".")
        record = catalog.records[architecture]
        return (
            (sources is None or record.source in sources)
            and (families is None or record.family in families)
            and (licenses is None or _license(record, tag) in licenses)
        )

    def matches_measured(name: str) -> bool:
        record = _measured_record(catalog, name.partition(".")[0])
        params = record.params or 0
        return (
            required_strides.issubset(level.stride for level in record.levels)
            and (any_size is None or record.levels[-1].fixed_size is not any_size)
            and (low is None or params >= low)
            and (high is None or params <= high)
        )

    names = _matching(pattern, catalog, pretrained_only)
    if sources is not None or families is not None or licenses is not None:
        names = [name for name in names if matches_declared(name)]
    if not required_strides and any_size is None and low is None and high is None:
        return names
    _warn_if_slow(catalog, names)
    return [name for name in names if matches_measured(name)]


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


def summarize(name: str) -> dict[str, Any]:
    """Return the columns of a list for a name from `list_backbones`, or for a name of weights.

    Values that would have to be measured first are ``None``.
    """
    catalog = full_catalog()
    ref = _parse(catalog, name)
    record = catalog.records[ref.name]
    weights = record.weights_of(ref.tag)
    levels = record.facts and record.facts.levels
    return {
        "name": name,
        "source": record.source,
        "family": record.family,
        "params": record.params,
        "macs": record.macs,
        "strides": levels and sorted({level.stride for level in levels}),
        "size": list((record if weights is None else weights).input.size),
        "any_size": levels and not levels[-1].fixed_size,
        "license": weights and weights.license,
        "hub_id": weights and weights.hub_id,
        "weights": 1 if ref.tag is not None else len(record.weights),
    }


def nearest_names(text: str) -> list[str]:
    """Return the names that are most like `text`."""
    return nearest(text, full_catalog().tags)


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
        license=weights and weights.license,
        hub_id=weights and weights.hub_id,
        pretrained_tags=tuple(published.name for published in record.weights),
    )


def _input_spec(record: ModelRecord, weights: PublishedWeights | None, deepest: int) -> InputSpec:
    """Return the input spec of a backbone cut at the level `deepest`."""
    assert record.facts is not None
    level = record.levels[deepest]
    images: PublishedInput = record.input if weights is None else weights.input
    return images.to_spec(min_size=record.facts.min_size, fixed_size=level.fixed_size, size_divisor=level.size_divisor)


def _measured_record(catalog: Catalog, name: str) -> ModelRecord:
    """Return the record of an architecture with at least levels, parameters and MACs."""
    record = catalog.records[name]
    if record.macs is not None:
        return record
    from autobackbone.catalog.survey import measure

    return add_record(measure(name))


def _complete_record(catalog: Catalog, name: str) -> ModelRecord:
    """Return the complete record of an architecture."""
    record = _measured_record(catalog, name)
    if record.exportable is not None:
        return record
    from autobackbone.catalog.survey import is_exportable

    return add_record(replace(record, exportable=is_exportable(name)))


def _warn_if_slow(catalog: Catalog, names: Sequence[str]) -> None:
    """Log a warning if answering takes long."""
    missing = {name.partition(".")[0] for name in names}
    missing = {name for name in missing if catalog.records[name].macs is None}
    if len(missing) > 1:
        LOG.warning(
            "%d architectures are not in the catalog, and are measured now, some two seconds each. For another timm "
            "than the catalog's, 'autobackbone catalog build' measures all of them at once, on every core.",
            len(missing),
        )


def _matching(pattern: str, catalog: Catalog, tagged: bool) -> list[str]:
    """Return the names that match a glob or contain a text, in natural order."""
    names = {name: name.lower() for name in (catalog.published if tagged else catalog.records)}
    pattern = pattern.lower()
    if not any(sign in pattern for sign in "*?["):
        return [name for name, lower in names.items() if pattern in lower]
    matches = set(fnmatch.filter(names.values(), pattern))
    stem, _, tag = pattern.partition(".")
    if tagged and not tag:  # as in timm
        matches.update(fnmatch.filter(names.values(), f"{stem}.*"))
    return [name for name, lower in names.items() if lower in matches]


def _license(record: ModelRecord, tag: str) -> str | None:
    """Return the license of the weights with a tag, or of the default weights if it is empty."""
    weights = record.weights_of(tag or None)
    return weights and weights.license
