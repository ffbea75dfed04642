"""The survey: measuring every backbone for the catalog, on the meta device."""

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import export
from torch.utils.flop_counter import FlopCounterMode

from autobackbone.backbone import FeatureBackbone
from autobackbone.catalog import store
from autobackbone.catalog.activations import count_activations
from autobackbone.catalog.encoding import Records
from autobackbone.catalog.records import ModelRecord
from autobackbone.catalog.store import Catalog
from autobackbone.create import create_backbone, create_feature_backbone
from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.inspection import get_input_spec
from autobackbone.sources.choose import describe
from autobackbone.sources.installed import declared
from autobackbone.sources.meta import meta_device
from autobackbone.sources.timm.registry import input_of, timm_version

_Progress = Callable[[int, int, str], None]


def measure(name: str) -> ModelRecord:
    """Measure levels, sizes, parameters, MACs and activations of a backbone."""
    return count(describe(name), name)


def survey(name: str) -> ModelRecord:
    """Measure a complete record for a config on the Hub or in a folder."""
    record = replace(measure(name), exportable=is_exportable(name))
    with meta_device():
        spec = _full_backbone(name).input_spec
    images = input_of(spec.to_dict() | {"input_size": (spec.in_chans, *spec.size)})
    return replace(record, input=images, weights=tuple(w._replace(input=images) for w in record.weights))


def count(record: ModelRecord, name: str) -> ModelRecord:
    """Add the parameters without a head to a record, and multiply-accumulates and activations at the default size.

    The multiply-accumulates of an image are half of what `torch.utils.flop_counter.FlopCounterMode` counts:
    convolutions and matrix products, including those of attention. For the activations, see `count_activations`.

    Parameters
    ----------
    record
        The record to complete.
    name
        The name to create the backbone by.
    """
    with meta_device():
        try:
            network: Any = create_backbone(name, pretrained=False).eval()
        except UnsupportedError:  # an encoder has no pooled form: use all of its levels
            network = _full_backbone(name)
        spec = get_input_spec(network)
        images = torch.empty(1, spec.in_chans, *spec.size)
        network.requires_grad_(requires_grad=False)  # count a forward pass only, whatever the mode
        network(images)  # the first call tries sizes that are not promised on a copy, which must not count
        with FlopCounterMode(display=False) as counter:
            network(images)
        params = sum(p.numel() for p in network.parameters())
        macs = counter.get_total_flops() // 2
    activations = count_activations(network, (spec.in_chans, *spec.size))
    return replace(record, params=params, macs=macs, activations=activations)


def is_exportable(name: str) -> bool:
    """Whether torch.export can export a backbone, at its default size and with its default levels."""
    with torch.device("meta"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        backbone = create_feature_backbone(name, pretrained=False).eval()
        images = torch.empty(1, backbone.input_spec.in_chans, *backbone.input_spec.size)
        try:
            export(backbone, (images,), strict=False)
        except Exception:  # noqa: BLE001 - torch can raise anything for a model that it cannot export
            return False
    return True


def build(path: Path | None = None, *, fresh: bool = False, progress: _Progress | None = None) -> Path:
    """Measure every backbone and write the catalog. The bytes are the same each time.

    Parameters
    ----------
    path
        File to write; by default the one in the cache, which is used where the shipped catalog does not apply.
    fresh
        Measure everything again. Otherwise facts that the file holds for this version of timm are kept.
    progress
        Called with the number of finished steps, the number of all steps, and the name of the last backbone.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        If the folder does not exist, or the file is not a catalog.
    """
    version = timm_version()
    if path is None:
        path = store.cache_path(version)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.is_dir():
        msg = f"There is no folder {str(path.parent)!r} to write the catalog to; make it first, or name another."
        raise ConfigError(msg)
    catalog = Catalog(version, Records({name: _unmeasured(record) for name, record in declared().items()}))
    if not fresh:
        for name, record in _saved_records(path, version).items():
            if name in catalog.records:
                catalog.records.put(store.merged(record, catalog.records[name]))
    _complete(catalog, path, progress or (lambda *_: None))
    store.write(path, catalog)
    return path


def _unmeasured(record: ModelRecord) -> ModelRecord:
    return replace(record, facts=None, params=None, macs=None, activations=None, exportable=None)


def _saved_records(path: Path, version: str) -> Records:
    if not path.exists():
        return Records()
    try:
        catalog = store.read(path)
    except ValueError as err:
        msg = f"{err}; remove it, or measure everything again."
        raise ConfigError(msg) from err
    return catalog.records if catalog.timm == version else Records()


def _complete(catalog: Catalog, path: Path, progress: _Progress) -> None:
    """Measure the missing facts, and save them from time to time."""
    missing = [name for name, record in catalog.records.items() if record.activations is None]
    total = len(catalog.records)
    for i, (name, record) in enumerate(_in_parallel(measure, missing), 1):
        catalog.records.put(store.merged(record, catalog.records[name]))
        progress(total - len(missing) + i, total, name)
        if i % 50 == 0:
            store.write(path, catalog)
    groups = kinds(catalog)
    unknown = [names[0] for names in groups if any(catalog.records[name].exportable is None for name in names)]
    answers: dict[str, bool] = {}
    for name, answer in _in_parallel(is_exportable, unknown):
        answers[name] = answer
        progress(len(answers), len(unknown), f"torch.export of {name}")
    for names in groups:
        if names[0] in answers:
            for name in names:
                catalog.records.put(replace(catalog.records[name], exportable=answers[names[0]]))


def kinds(catalog: Catalog) -> list[list[str]]:
    """Group the backbones by family and strides. The cheapest backbone of each group comes first."""
    names_by_kind: dict[Any, list[str]] = {}
    for record in sorted(catalog.records.values(), key=lambda record: (record.macs or 0, record.name)):
        strides = tuple(dict.fromkeys((level.stride, level.fixed_size) for level in record.levels))
        names_by_kind.setdefault((record.family, strides), []).append(record.name)
    return list(names_by_kind.values())


def _in_parallel(function: Callable[[str], Any], names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield each name with the result of `function`, in any order, from one process per core."""
    workers = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,), maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(_Named(function), names)


class _Named:
    """A function of a name that also returns the name, because a pool returns results in any order."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        self.function = function

    def __call__(self, name: str) -> tuple[str, Any]:
        try:
            return name, self.function(name)
        except Exception as err:
            err.add_note(f"This was {name!r}.")
            raise


def _full_backbone(name: str) -> FeatureBackbone:
    """Return a backbone with all its native levels."""
    first = create_feature_backbone(name, pretrained=False, out_indices=(0,))
    return create_feature_backbone(name, pretrained=False, out_indices=range(len(first.native_levels))).eval()
