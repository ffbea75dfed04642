"""The survey: measuring every backbone for the catalogue, on the meta device."""

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import export
from torch.utils.flop_counter import FlopCounterMode

from autobackbone.backbone import FeatureBackbone
from autobackbone.catalog import store as catalog
from autobackbone.catalog.store import Catalog, Row
from autobackbone.config import FeatureBackboneConfig
from autobackbone.create import create_backbone, create_feature_backbone
from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.names import DINOV3, ModelRef
from autobackbone.sources.timm.facts import encode, encode_levels
from autobackbone.sources.timm.measure import meta_device
from autobackbone.sources.timm.registry import declared, input_of, measured, timm_version
from autobackbone.sources.timm.source import TimmSource

_Progress = Callable[[int, int, str], None]


def measure(name: str) -> Row:
    """Measure levels, sizes, parameters and MACs of a backbone, as the catalogue holds them."""
    if name in DINOV3:
        with meta_device():
            ladder = _whole(name).ladder
        facts: Row = {"levels": encode_levels(ladder), "min_size": 1}
    else:
        facts = encode(measured(name))
    return facts | count(name)


def survey(ref: ModelRef) -> tuple[Row, str | None]:
    """Measure what a config on the Hub or in a folder describes; returns that and the licence."""
    source = TimmSource(ref, FeatureBackboneConfig(str(ref), pretrained=False))
    row = source.row() | count(str(ref)) | {"exportable": is_exportable(str(ref))}
    with meta_device():
        spec = _whole(str(ref)).input_spec
    row["input"] = input_of(spec.to_dict() | {"input_size": (spec.in_chans, *spec.size)})
    return row, source.published.get("license")


def count(name: str) -> Row:
    """Count the parameters of a backbone without a head, and the multiply-accumulates of one image of its default size.

    They are what `torch.utils.flop_counter.FlopCounterMode` counts, by two: convolutions and matrix products, those of
    attention among them.
    """
    with meta_device():
        try:
            network: Any = create_backbone(name, pretrained=False).eval()
        except UnsupportedError:  # an encoder: all of its levels
            network = _whole(name)
        images = torch.empty(1, network.input_spec.in_chans, *network.input_spec.size)
        network.requires_grad_(requires_grad=False)  # what is counted is a forward pass, whatever the mode
        with FlopCounterMode(display=False) as counter:
            network(images)
        return {"params": sum(p.numel() for p in network.parameters()), "macs": counter.get_total_flops() // 2}


def is_exportable(name: str) -> bool:
    """Whether torch.export takes a backbone, at its default size and with its default levels."""
    with torch.device("meta"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        backbone = create_feature_backbone(name, pretrained=False).eval()
        images = torch.empty(1, backbone.input_spec.in_chans, *backbone.input_spec.size)
        try:
            export(backbone, (images,), strict=False)
        except Exception:  # noqa: BLE001 - whatever torch makes of it, it is not exported
            return False
    return True


def build(path: Path | None = None, *, fresh: bool = False, progress: _Progress | None = None) -> Path:
    """Measure every backbone, and write the catalogue, byte for byte the same each time.

    Parameters
    ----------
    path
        Where to write; by default the cache, where it is found if it is not the shipped one that holds.
    fresh
        Measure everything again; otherwise what the file holds for this timm version is kept.
    progress
        Called with how many steps are done, how many there are, and the name of the last backbone.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        If the folder is not there, or the file holds something else.
    """
    version = timm_version()
    if path is None:
        path = catalog.cache_path(version)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.is_dir():
        msg = f"There is no folder {str(path.parent)!r} to write the catalogue to; make it first, or name another."
        raise ConfigError(msg)
    made = Catalog(version, declared())
    for name, row in made.rows.items():
        made.rows[name] = {key: row[key] for key in ("source", "family", "input", "tags") if key in row}
    if not fresh:
        for name, row in _held(path, version).items():
            if name in made.rows:
                made.rows[name] = row | made.rows[name]
    _complete(made, path, progress or (lambda *_: None))
    catalog.write(path, made)
    return path


def _held(path: Path, version: str) -> dict[str, Row]:
    if not path.exists():
        return {}
    try:
        held = catalog.read(path)
    except ValueError as err:
        msg = f"{err}; remove it, or measure everything again."
        raise ConfigError(msg) from err
    return held.rows if held.timm == version else {}


def _complete(made: Catalog, path: Path, progress: _Progress) -> None:
    """Measure what is missing, and save it now and then."""
    missing = [name for name, row in made.rows.items() if "macs" not in row]
    total = len(made.rows)
    for i, (name, row) in enumerate(_in_parallel(measure, missing), 1):
        made.rows[name] |= row
        progress(total - len(missing) + i, total, name)
        if i % 50 == 0:
            catalog.write(path, made)
    alike = kinds(made)
    unknown = [names[0] for names in alike if any("exportable" not in made.rows[name] for name in names)]
    answers: dict[str, bool] = {}
    for name, answer in _in_parallel(is_exportable, unknown):
        answers[name] = answer
        progress(len(answers), len(unknown), f"torch.export of {name}")
    for names in alike:
        if names[0] in answers:
            for name in names:
                made.rows[name]["exportable"] = answers[names[0]]


def kinds(made: Catalog) -> list[list[str]]:
    """Return the backbones by kind: of one family, with the same ladder of strides; the quickest of each kind first."""
    found: dict[Any, list[str]] = {}
    for name in sorted(made.rows, key=lambda name: (made.rows[name]["macs"], name)):
        row = made.rows[name]
        ladder = tuple(dict.fromkeys((level[2], level[4]) for level in row["levels"]))
        found.setdefault((row["family"], ladder), []).append(name)
    return list(found.values())


def _in_parallel(function: Callable[[str], Any], names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield names and what `function` makes of them, as they come, from a process for each core."""
    workers = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,), maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(_Named(function), names)


class _Named:
    """A function of a name, with the name: what a pool gives back is in no order."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        self.function = function

    def __call__(self, name: str) -> tuple[str, Any]:
        try:
            return name, self.function(name)
        except Exception as err:
            err.add_note(f"This was {name!r}.")
            raise


def _whole(name: str) -> FeatureBackbone:
    """Return a backbone with every level it has."""
    first = create_feature_backbone(name, pretrained=False, out_indices=(0,))
    return create_feature_backbone(name, pretrained=False, out_indices=range(len(first.ladder))).eval()
