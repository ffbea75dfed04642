"""The catalog page: every backbone in one HTML file that opens from disk and asks the network for nothing.

The docs build writes it beside the other pages; ``python docs/catalog_page/build.py OUT.html`` writes it alone. Two
libraries of the npm registry go into it: DataTables, because its table stays a real ``<table>`` whose sorting and
paging work by keyboard and screen reader, and Chart.js, which draws 1400 points on one canvas at once. Both are scripts
that run without modules, which a page on disk cannot load. axe-core, the third in ``package.json``, only tests the
page.
"""

import itertools
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

HERE = Path(__file__).parent
STYLES = ("datatables.net-dt/css/dataTables.dataTables.min.css",)
SCRIPTS = ("datatables.net/js/dataTables.min.js", "chart.js/dist/chart.umd.min.js")


def setup(app: Sphinx) -> dict[str, bool]:
    """Have Sphinx write the page at the end of a build."""
    app.connect("build-finished", _on_build_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _on_build_finished(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        write_page(Path(app.outdir) / "catalog.html")


def write_page(path: Path) -> None:
    """Write the page, byte for byte the same each time."""
    path.write_text(_page(page_data(), libraries()), encoding="utf-8")


def page_data() -> dict[str, Any]:
    """Return what the page knows: every backbone with its levels and its published weights."""
    from autobackbone import describe_backbone, list_backbones

    return {"timm": version("timm"), "backbones": [_row(describe_backbone(name)) for name in list_backbones()]}


def _row(card: Any) -> dict[str, Any]:
    from autobackbone import describe_backbone

    alike = itertools.groupby(card.levels, key=lambda level: (level.channels, level.stride))
    runs = [(channels, stride, [level.index for level in run]) for (channels, stride), run in alike]
    same = (
        "name",
        "source",
        "family",
        "params",
        "macs",
        "min_size",
        "fixed_size",
        "size_divisor",
        "exact",
        "exportable",
    )
    return {key: getattr(card, key) for key in same} | {
        "input_size": list(card.input_size),
        "license": card.license,
        "levels": [
            {"first": found[0], "last": found[-1], "channels": channels, "stride": stride}
            for channels, stride, found in runs
        ],
        "tags": [
            {"name": tag.name, "license": tag.license, "size": list(tag.input_size), "hub_id": tag.hub_id}
            for tag in map(describe_backbone, card.pretrained_tags)
        ],
    }


def libraries(folder: Path = HERE) -> Path:
    """Return where the libraries are, after having them installed if they are not, or not as the lock says."""
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        npm = shutil.which("npm")
        if npm is None:
            msg = "The catalog page needs npm, which is not on the PATH; install Node.js 20 or later."
            raise ExtensionError(msg)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            reason = " ".join(re.findall(r"^npm (?:error|ERR!) +(\S.*)", done.stderr, flags=re.MULTILINE)[:4])
            msg = f"`npm ci` cannot install the libraries of the catalog page in {str(folder)!r}: {reason}"
            raise ExtensionError(msg)
    return installed.parent


def _page(data: dict[str, Any], modules: Path) -> str:
    def joined(own: str, *theirs: str) -> str:
        return "\n".join(
            path.read_text(encoding="utf-8") for path in (*(modules / name for name in theirs), HERE / own)
        )

    # Without the maps of the libraries, which are not here; and so that nothing ends or hides the script early.
    script = re.sub(r"^//# sourceMappingURL=.*\n?", "", joined("page.js", *SCRIPTS), flags=re.MULTILINE)
    parts = {
        "timm": data["timm"],
        "style": joined("page.css", *STYLES),
        "script": re.sub(r"<(?=/script|!--)", r"\\x3C", script, flags=re.IGNORECASE),
        "data": json.dumps(data, separators=(",", ":")).replace("<", r"\u003C"),
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def main() -> None:
    """Write the page to the path given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/catalog_page/build.py OUT.html")
    write_page(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
