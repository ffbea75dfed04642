"""The list of backbones: filtered and sorted, without importing torch."""

import fnmatch
from collections.abc import Sequence

from autobackbone.catalog.describe import measured_record, summarize
from autobackbone.catalog.filters import check_pattern, read_filters
from autobackbone.catalog.records import ModelRecord
from autobackbone.catalog.store import LOG, Catalog
from autobackbone.names import nearest
from autobackbone.sources.installed import full_catalog
from autobackbone.values import one_of

SORTS = (
    "name",
    "params",
    "macs",
    "activations",
    "top1",
    "throughput",
    "family",
    "strides",
    "size",
    "any_size",
    "license",
    "weights",
)
_BEST_FIRST = ("top1", "throughput")


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
    commercial: bool | None = None,
    used_by: str | Sequence[str] | None = None,
    min_top1: float | None = None,
    min_throughput: float | None = None,
    device: str = "rtx4090",
    sort: str = "name",
    reverse: bool = False,
) -> list[str]:
    """List the names of backbones, by default in natural order: ``resnet9`` before ``resnet10``.

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
    commercial
        ``True`` for weights under ``apache-2.0``, ``bsd-3-clause``, ``cc-by-4.0`` or ``mit``; ``False`` for those under
        another license, or with none stated.
    used_by
        A published method such as ``"Mask2Former"`` or a task such as ``"detection"``, or several: backbones that
        one of them was built on, see `BackboneCard.used_by`.
    min_top1
        Least top-1 accuracy on ImageNet-1k in percent, published for the weights that the name means, at the size that
        they were trained for. It is that of the whole classifier, not of a detector.
    min_throughput
        Least number of images per second, published for the architecture at that size, on `device`.
    device
        Where the throughput was measured: ``"rtx4090"``, ``"rtx5090"``, ``"rtx_pro_6000"`` (mixed precision, large
        batches) or ``"i9_10940x"`` (a CPU, one image at a time), see `Throughput`.
    sort
        ``"name"``, ``"params"``, ``"macs"``, ``"activations"``, ``"strides"``, ``"size"``, ``"any_size"``,
        ``"family"``, ``"license"`` or ``"weights"`` (their number), the smallest first; ``"top1"`` or
        ``"throughput"``, the largest first. Those of which it is not known are last.
    reverse
        Begin at the other end.

    Returns
    -------
    list of str
        The names that ``timm.list_models`` of the installed timm returns, and the short names of the DINOv3 models.

    Raises
    ------
    ConfigError
        If an argument has a value that no backbone can have.

    Examples
    --------
    >>> from autobackbone import list_backbones
    >>> list_backbones("resnet1?d")
    ['resnet18d']
    >>> list_backbones("convnext_", strides=4, max_params=4e6, license="apache-2.0")
    ['convnext_atto', 'convnext_atto_ols', 'convnext_zepto_rms', 'convnext_zepto_rms_ols']
    >>> list_backbones("convnext_", commercial=True, min_throughput=10_000, sort="top1")[0]
    'convnext_femto_ols'
    """
    catalog = full_catalog()
    check_pattern(pattern, pretrained_only)
    filters = read_filters(
        catalog,
        source=source,
        family=family,
        strides=strides,
        min_params=min_params,
        max_params=max_params,
        any_size=any_size,
        license=license,
        commercial=commercial,
        used_by=used_by,
        min_top1=min_top1,
        min_throughput=min_throughput,
        device=device,
    )
    one_of("sort", sort, SORTS)
    names = _matching(pattern, catalog, pretrained_only)
    if filters.need_declared:
        names = [name for name in names if filters.accept_declared(*_record_and_tag(catalog, name))]
    if filters.need_measured:
        _warn_if_slow(catalog, names)
        names = [name for name in names if filters.accept_measured(measured_record(catalog, name.partition(".")[0]))]
    return _sorted(names, sort, reverse=reverse, device=device)


def _record_and_tag(catalog: Catalog, name: str) -> tuple[ModelRecord, str | None]:
    """Return the record of a listed name, and the tag of its weights if it has one."""
    architecture, _, tag = name.partition(".")
    return catalog.records[architecture], tag or None


def _sorted(names: list[str], sort: str, *, reverse: bool, device: str) -> list[str]:
    """Sort names that are in natural order."""
    if sort == "name":
        return names[::-1] if reverse else names
    values = {name: summarize(name, device)[sort] for name in names}
    known = [name for name in names if values[name] is not None]
    known.sort(key=values.__getitem__, reverse=reverse is not (sort in _BEST_FIRST))
    return known + [name for name in names if values[name] is None]


def nearest_names(text: str) -> list[str]:
    """Return the names that are most like `text`."""
    return nearest(text, full_catalog().tags)


def _warn_if_slow(catalog: Catalog, names: Sequence[str]) -> None:
    """Log a warning if answering takes long."""
    missing = {name.partition(".")[0] for name in names}
    missing = {name for name in missing if catalog.records[name].activations is None}
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
