"""The reference: what is public, where its source is, and links to it wherever a type of it is written.

Signatures hold the modules that classes are defined in. Those are private: readers see and follow the public names.
"""

import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

REPOSITORY = "https://github.com/autobackbone/autobackbone"
PACKAGE = "autobackbone"
INTEGRATIONS = {
    "autobackbone.integrations.segmentation_models_pytorch": ("BackboneEncoder", "register_encoder"),
    "autobackbone.integrations.torchvision": ("FeatureExtractor",),
    "autobackbone.integrations.transformers": (
        "AutobackboneConfig",
        "AutobackboneModel",
        "backbone_config",
        "head_config",
        "image_processor",
    ),
}
FOLDER = "reference"  # of the pages that are written for each


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what this module does to the build."""
    app.connect("builder-inited", _remove_stale_pages, priority=400)  # before autosummary writes its own
    app.connect("autodoc-process-bases", _keep_public_bases)
    app.connect("autodoc-before-process-signature", _hide_private_parameters)
    app.connect("missing-reference", _resolve_public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def public_names() -> Iterator[str]:
    """Yield the full name of everything that is public."""
    yield from (f"{PACKAGE}.{name}" for name in importlib.import_module(PACKAGE).__all__)
    yield from (f"{module}.{name}" for module, names in INTEGRATIONS.items() for name in names)


def linkcode_resolve(domain: str, info: dict[str, Any]) -> str | None:
    """Return the address of the lines of an object; ``None`` if it has none of its own."""
    if domain != "py" or not info["module"]:
        return None
    thing: Any = importlib.import_module(info["module"])
    for part in info["fullname"].split("."):
        thing = inspect.getattr_static(thing, part) if inspect.isclass(thing) else getattr(thing, part, None)
    thing = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    try:
        thing = inspect.unwrap(thing)
        file = Path(inspect.getsourcefile(thing) or "").resolve()
        lines, first = inspect.getsourcelines(thing)
    except (TypeError, OSError):  # data
        return None
    root = Path(importlib.import_module(PACKAGE).__file__ or "").resolve().parents[1]
    if not file.is_relative_to(root / PACKAGE):
        return None
    commit = os.environ.get("GITHUB_SHA", "main")
    path = file.relative_to(root).as_posix()
    return f"{REPOSITORY}/blob/{commit}/{path}#L{first}-L{first + len(lines) - 1}"


def _remove_stale_pages(app: Sphinx) -> None:
    """Remove pages of what is no longer public: Sphinx would warn that nothing leads to them."""
    current = {f"{name}.rst" for name in public_names()}
    for page in Path(app.srcdir, FOLDER).glob("*.rst"):
        if page.name not in current:
            page.unlink()


def _keep_public_bases(app: Sphinx, name: str, obj: Any, options: Any, bases: list[type]) -> None:  # noqa: ARG001
    """Show the public ancestors that a class has through private ones."""
    public = {
        getattr(importlib.import_module(full.rpartition(".")[0]), full.rpartition(".")[2]) for full in public_names()
    }

    def ancestors(base: type) -> Iterator[type]:
        if base in public or not base.__module__.startswith(f"{PACKAGE}."):
            yield base
        else:
            for parent in base.__bases__:
                yield from ancestors(parent)

    kept = dict.fromkeys(ancestor for base in bases for ancestor in ancestors(base) if ancestor is not object)
    bases[:] = list(kept) or [object]


def _hide_private_parameters(app: Sphinx, obj: Any, bound_method: bool) -> None:  # noqa: ARG001
    """Leave fields of transformers' configs that are none of the caller's out of signatures."""
    function = getattr(obj, "__init__", obj) if inspect.isclass(obj) else obj
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    kept = [each for each in signature.parameters.values() if not each.name.startswith("_")]
    if len(kept) < len(signature.parameters):
        function.__signature__ = signature.replace(parameters=kept)


def _resolve_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Link the class of a private module to its public page."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(f"{PACKAGE}."):
        return None
    name = target.rpartition(".")[2]
    full = next((full for full in public_names() if full.rpartition(".")[2] == name), None)
    if full is None or full == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, contnode)
