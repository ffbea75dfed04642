"""The catalog page: every backbone in one HTML file that opens from disk and asks the network for nothing.

The docs build writes it beside the other pages; ``python docs/catalog_page/build.py OUT.html`` writes it alone. Its
scripts are joined in the order of `SCRIPTS`, because a page on disk cannot load modules. It has no libraries: a table
of one page of rows and a canvas answer a filter several times faster than DataTables and Chart.js, see ``measure.py``.
"""

import html
import itertools
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
SCRIPTS = ("data", "likeness", "state", "filters", "table", "chart", "card", "compare", "export", "page")
TAG_KEYS = ("name", "license", "size", "hub", "ungated", "accuracy")
DEVICES = {
    "rtx4090": "NVIDIA RTX 4090",
    "rtx5090": "NVIDIA RTX 5090",
    "rtx_pro_6000": "NVIDIA RTX PRO 6000 Max-Q",
    "i9_10940x": "Intel Core i9-10940X (CPU)",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Have Sphinx write the page at the end of a build."""
    app.connect("build-finished", _on_build_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _on_build_finished(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        write_page(Path(app.outdir) / "catalog.html")


def write_page(path: Path) -> None:
    """Write the page, byte for byte the same each time."""
    path.write_text(_page(page_data()), encoding="utf-8")


def page_data() -> dict[str, Any]:
    """Return what the page knows: every backbone with its levels, its published weights and figures."""
    from autobackbone import describe_backbone, list_backbones
    from autobackbone.catalog.figures import shipped
    from autobackbone.catalog.records import COMMERCIAL
    from autobackbone.catalog.uses import USES
    from autobackbone.likeness import COMMON_WORDS, SIZES
    from autobackbone.names import ALIASES, DINOV3_REPOS

    cards = [describe_backbone(name) for name in list_backbones()]
    return {
        "timm": version("timm"),
        "figures": dict(shipped().source),
        "devices": DEVICES,
        "commercial": sorted(COMMERCIAL),
        "uses": [{"method": use.method, "task": use.task, "paper": use.paper} for use in USES],
        "names": {"aliases": ALIASES, "dinov3": DINOV3_REPOS, "sizes": SIZES, "common": list(COMMON_WORDS)},
        "tag_keys": TAG_KEYS,
        "backbones": {"keys": list(_row(cards[0])), "rows": [list(_row(card).values()) for card in cards]},
    }


def _row(card: Any) -> dict[str, Any]:
    from autobackbone import describe_backbone
    from autobackbone.catalog.uses import USES

    alike = itertools.groupby(card.levels, key=lambda level: (level.channels, level.stride))
    runs = [(channels, stride, [level.index for level in run]) for (channels, stride), run in alike]
    same = ("name", "source", "family", "params", "macs", "activations", "min_size", "size_divisor")
    flags = ("fixed_size", "exact", "exportable")
    return (
        {key: getattr(card, key) for key in same}
        | {key: int(getattr(card, key)) for key in flags}
        | {
            "size": list(card.input_size),
            "tokens": card.prefix_tokens,
            "levels": [[indices[0], indices[-1], channels, stride] for channels, stride, indices in runs],
            "throughput": [[row.size, *(getattr(row, device) for device in DEVICES)] for row in card.throughput],
            "used_by": [USES.index(use) for use in card.used_by],
            "tags": [_tag(card, describe_backbone(name)) for name in card.pretrained_tags],
        }
    )


def _tag(card: Any, weights: Any) -> list[Any]:
    """Return the values of `TAG_KEYS`: a name as what follows that of the architecture, timm's own repository as 1."""
    names = ("size", "top1", "top5", "real", "v2", "sketch", "a", "r")
    return [
        weights.name.removeprefix(card.name) if weights.name.startswith(f"{card.name}.") else weights.name,
        weights.license,
        list(weights.input_size),
        1 if weights.hub_id == f"timm/{weights.name}" else weights.hub_id,
        weights.ungated,
        [[getattr(row, name) for name in names] for row in weights.accuracy],
    ]


def _page(data: dict[str, Any]) -> str:
    script = "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "timm": html.escape(data["timm"]),
        "attribution": _attribution(data["figures"]),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "script": re.sub(r"<(?=/script|!--)", r"\\x3C", script, flags=re.IGNORECASE),  # nothing ends it early
        "data": json.dumps(data, separators=(",", ":")).replace("<", r"\u003C"),
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _attribution(source: dict[str, str]) -> str:
    shown = {key: html.escape(value) for key, value in source.items()}
    return (
        "Top-1 and images/s were published by timm, not measured here: "
        f'<a href="{shown["url"]}">{shown["title"]}</a>, {shown["date"]}, {shown["license"]}. Top-1 is the accuracy on '
        "ImageNet-1k of the whole classifier with these weights, at the size that they were trained for. It is "
        "classification accuracy of the weights, not detection."
    )


def main() -> None:
    """Write the page to the path given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/catalog_page/build.py OUT.html")
    write_page(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
