"""The catalogue: which backbones there are, and the generated facts about them."""

import fnmatch
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autobackbone.errors import ConfigError
from autobackbone.names import DINOV3, DINOV3_REPOS, parse_name
from autobackbone.sources.timm import architectures, declared, list_architectures
from autobackbone.sources.timm_facts import FACTS_FILE, measure_all, timm_version


def list_backbones(pattern: str = "", pretrained_only: bool = False) -> list[str]:
    """List backbones by name, naturally sorted.

    Parameters
    ----------
    pattern
        A glob such as ``"*resnet*"``; empty for all.
    pretrained_only
        Only those with published weights; the names then carry the tags of the weights, as in ``resnet50.a1_in1k``.

    Returns
    -------
    list of str
        What ``timm.list_models`` gives for the installed timm, and the short names of DINOv3 models, all of which
        have published weights.

    Examples
    --------
    >>> from autobackbone import list_backbones
    >>> list_backbones("resnet1?d")
    ['resnet18d']
    """
    return list_architectures(pattern, pretrained_only=pretrained_only) + fnmatch.filter(DINOV3, pattern or "*")


def published(name: str) -> dict[str, Any]:
    """Return what is published of a backbone: its name, ``license``, and the ``tags`` of its weights, its own first.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    """
    known = architectures()
    ref = parse_name(name, known)
    if ref.source == "dinov3":
        repos = sorted((r for r, short in DINOV3_REPOS.items() if short == ref.name), key=lambda r: r != ref.tag)
        return {"name": str(ref), "license": "dinov3-license", "tags": repos}
    found = declared(ref)
    tags = sorted(known.get(ref.name, ()), key=lambda tag: tag != found.get("tag"))
    return {"name": str(ref), "license": found.get("license"), "tags": tags}


def build(
    path: Path | None = None, *, fresh: bool = False, progress: Callable[[int, int, str], None] | None = None
) -> Path:
    """Measure every architecture of the installed timm and write the facts file, byte for byte the same each time.

    Parameters
    ----------
    path
        Where to write; the package's own file by default.
    fresh
        Measure everything again; otherwise what the file holds for this timm version is kept.
    progress
        Called with how many are done, how many there are, and the name of the last.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        If the folder is not there, or the file holds something else.
    """
    path = path or Path(__file__).parent / "sources" / FACTS_FILE
    version = timm_version()
    facts: dict[str, dict[str, object]] = {}
    if not path.parent.is_dir():
        msg = f"There is no folder {str(path.parent)!r} to write the facts to; make it first."
        raise ConfigError(msg)
    if path.is_file() and not fresh:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            facts = held["architectures"] if held["timm"] == version else {}
        except (ValueError, TypeError, KeyError) as err:
            msg = f"{str(path)!r} holds no facts to go on from; remove it, or measure everything again."
            raise ConfigError(msg) from err
    names = list_architectures("", pretrained_only=False)
    facts = {name: facts[name] for name in names if name in facts}
    for name, found in measure_all([name for name in names if name not in facts], workers=os.cpu_count() or 1):
        facts[name] = found
        if progress is not None:
            progress(len(facts), len(names), name)
        if len(facts) % 50 == 0:
            _write(path, version, facts)
    _write(path, version, facts)
    return path


def _write(path: Path, version: str, facts: dict[str, dict[str, object]]) -> None:
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts[name])}" for name in sorted(facts))
    text = f'{{"timm": {json.dumps(version)}, "architectures": {{\n{rows}\n}}}}\n'
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
