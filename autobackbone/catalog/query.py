"""Discovery: which backbones there are, and what each is like; off the catalog, without importing torch."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autobackbone.catalog.card import BackboneCard
from autobackbone.catalog.filters import check_kinds, choose, read_bound, read_strides
from autobackbone.catalog.records import ModelRecord, PublishedInput, PublishedWeights
from autobackbone.catalog.store import LOG, Catalog
from autobackbone.errors import ConfigError, UnknownBackboneError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel, choose_levels
from autobackbone.names import ModelRef, nearest, parse_name
from autobackbone.sources.known import learn, with_own
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
    """List backbones by name, naturally sorted: ``resnet9`` before ``resnet10``.

    Parameters
    ----------
    pattern
        A glob such as ``"*resnet*"``, or a part of the name; empty for all. Case does not matter.
    pretrained_only
        Only those with published weights; timm's names then carry the tags of the weights, as in
        ``resnet50.a1_in1k``.
    source
        ``"timm"`` or ``"dinov3"``.
    family
        timm's module, such as ``"resnet"``, or several.
    strides
        Native strides that it has to have, all of them.
    min_params, max_params
        Bounds for the number of parameters without a classifier, both included.
    any_size
        ``True``: those that take images of any size; ``False``: those that are built for one.
    license
        Of the weights that the name stands for, or several of them, such as ``("apache-2.0", "mit")``. Without tags,
        a name stands for its default weights.

    Returns
    -------
    list of str
        What ``timm.list_models`` gives for the installed timm, and the short names of DINOv3 models.

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
    known = with_own()
    check_kinds(pattern, pretrained_only, any_size)
    sources = choose("source", source, lambda: SOURCES)
    families = choose("family", family, lambda: known.families)
    licenses = choose("license", license, lambda: known.licenses)
    wanted = read_strides(strides)
    low, high = read_bound("min_params", min_params), read_bound("max_params", max_params)
    if low is not None and high is not None and low > high:
        msg = f"min_params={min_params} is more than max_params={max_params}; exchange them."
        raise ConfigError(msg)

    def is_declared(name: str) -> bool:
        architecture, _, tag = name.partition(".")
        record = known.records[architecture]
        return (
            (sources is None or record.source in sources)
            and (families is None or record.family in families)
            and (licenses is None or _license(record, tag) in licenses)
        )

    def is_measured(name: str) -> bool:
        record = _measured(known, name.partition(".")[0])
        params = record.params or 0
        return (
            wanted.issubset(level.stride for level in record.levels)
            and (any_size is None or record.levels[-1].bound is not any_size)
            and (low is None or params >= low)
            and (high is None or params <= high)
        )

    names = _matching(pattern, known, pretrained_only)
    if sources is not None or families is not None or licenses is not None:
        names = [name for name in names if is_declared(name)]
    if not wanted and any_size is None and low is None and high is None:
        return names
    _announce(known, names)
    return [name for name in names if is_measured(name)]


def describe_backbone(name: str) -> BackboneCard:
    """Tell what is known of a backbone, without building or downloading anything.

    Parameters
    ----------
    name
        A model name, in any spelling that `create_feature_backbone` takes.

    Returns
    -------
    BackboneCard
        Off the catalog, without importing torch. What the catalog does not hold, as it is of another version of
        timm, is measured, and kept in the user's cache folder.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    WeightsError
        If the name is of a repository or a folder whose config cannot be had.

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
    """Return the card of a backbone, the levels that a request would deliver, and what it would then take as input."""
    ref, record, weights = _resolve(name)
    levels = choose_levels(record.levels, out_indices, out_strides)
    spec = _input_spec(record, weights, max(level.index for level in levels))
    return _card(ref, record, weights), levels, spec


def summarize(name: str) -> dict[str, Any]:
    """Return what a line of a list has room for, of a name that `list_backbones` gives or that is of weights.

    What would have to be measured first is ``None``.
    """
    known = with_own()
    ref = _parse(known, name)
    record = known.records[ref.name]
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
        "any_size": levels and not levels[-1].bound,
        "license": weights and weights.license,
        "hub_id": weights and weights.hub_id,
        "weights": 1 if ref.tag is not None else len(record.weights),
    }


def nearest_names(text: str) -> list[str]:
    """Return the names that `text` most likely means."""
    return nearest(text, with_own().tags)


def _resolve(name: str) -> tuple[ModelRef, ModelRecord, PublishedWeights | None]:
    """Parse a name, and return all there is to know of what it means, and of the weights that it means."""
    known = with_own()
    ref = _parse(known, name)
    if ref.name in known.records:
        record = _whole(known, ref.name)
        return ref, record, record.weights_of(ref.tag)
    from autobackbone.catalog.survey import survey

    record = survey(str(ref))
    return ref, replace(record, weights=()), record.weights_of(None)


def _parse(known: Catalog, name: Any) -> ModelRef:
    if not isinstance(name, str):
        msg = f"{shown(name)} is no model name; give text, such as 'resnet50'."
        raise UnknownBackboneError(msg)
    return parse_name(name, known.tags)


def _card(ref: ModelRef, record: ModelRecord, weights: PublishedWeights | None) -> BackboneCard:
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
        divisor=record.levels[-1].divisor,
        exportable=record.exportable,
        license=weights and weights.license,
        hub_id=weights and weights.hub_id,
        pretrained_tags=tuple(published.name for published in record.weights),
    )


def _input_spec(record: ModelRecord, weights: PublishedWeights | None, deepest: int) -> InputSpec:
    """Return what a backbone that ends at a level takes as input."""
    assert record.facts is not None
    level = record.levels[deepest]
    images: PublishedInput = record.input if weights is None else weights.input
    return InputSpec(
        **images._asdict(),
        min_size=min(images.size) if level.bound else record.facts.min_size,
        fixed_size=level.bound,
        divisor=level.divisor or 1,
    )


def _measured(known: Catalog, name: str) -> ModelRecord:
    """Return what is known of an architecture, parameters and levels among it."""
    record = known.records[name]
    if record.macs is not None:
        return record
    from autobackbone.catalog.survey import measure

    return learn(measure(name))


def _whole(known: Catalog, name: str) -> ModelRecord:
    """Return all there is to know of an architecture."""
    record = _measured(known, name)
    if record.exportable is not None:
        return record
    from autobackbone.catalog.survey import is_exportable

    return learn(replace(record, exportable=is_exportable(name)))


def _announce(known: Catalog, names: Sequence[str]) -> None:
    """Say so if answering takes long."""
    missing = {name.partition(".")[0] for name in names}
    missing = {name for name in missing if known.records[name].macs is None}
    if len(missing) > 1:
        LOG.warning(
            "%d architectures are not in the catalog, and are measured now, some two seconds each. For another timm "
            "than the catalog's, 'autobackbone catalog build' measures all of them at once, on every core.",
            len(missing),
        )


def _matching(pattern: str, known: Catalog, tagged: bool) -> list[str]:
    """Return the names that a glob or a part of a name matches, in natural order."""
    names = known.published if tagged else list(known.records)
    pattern = pattern.lower()
    if not any(sign in pattern for sign in "*?["):
        return [name for name in names if pattern in name]
    found = set(fnmatch.filter(names, pattern))
    name, _, tag = pattern.partition(".")
    if tagged and not tag:  # as timm has it
        found.update(fnmatch.filter(names, f"{name}.*"))
    return [name for name in names if name in found]


def _license(record: ModelRecord, tag: str) -> str | None:
    """Return the license of the weights with a tag, or of the default ones."""
    weights = record.weights_of(tag or None)
    return weights and weights.license
