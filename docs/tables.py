"""Tables of the pages, written from what they are about: as Markdown, under the names that pages give them."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autobackbone.catalog.filters import COMMERCIAL
from autobackbone.sources.installed import full_catalog

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
NOT_STATED = "none stated"
# What to know of a license beside its name.
_LICENSES = {
    "apache-2.0": "name the authors, keep notices, say what you changed",
    "apple-amlr": "research only",
    "bsd-3-clause": "name the authors",
    "cc-by-4.0": "name the authors, say what you changed",
    "cc-by-nc-4.0": "no commercial use",
    "fair-noncommercial-research-license": "no commercial use",
    "mit": "name the authors",
    "unknown": "timm does not know: ask the authors",
    NOT_STATED: "no license means no permission: ask the authors",
}
_OWN_TERMS = "terms of its own: read them"


def licenses() -> str:
    """Return every license in the catalog: of how many weights, and whether `commercial` accepts it."""
    weights = [each for record in full_catalog().records.values() for each in record.weights]
    found = Counter(each.license or NOT_STATED for each in weights)
    rows = sorted(found.items(), key=lambda item: (item[0] not in COMMERCIAL, -item[1], item[0]))
    return _table(
        ("license", "weights", "`commercial=True`", "in short"),
        *(
            (_code(name), str(count), "listed" if name in COMMERCIAL else "left out", _LICENSES.get(name, _OWN_TERMS))
            for name, count in rows
        ),
    )


def dependencies() -> str:
    """Return the oldest version of each dependency that is allowed."""
    return _table(("package", "from version"), *map(_bound, _project()["dependencies"]))


def extras() -> str:
    """Return what each extra installs."""
    rows = _project()["optional-dependencies"].items()
    return _table(
        ("extra", "adds"),
        *(
            (_code(f"autobackbone[{name}]"), ", ".join(" ".join(_bound(each)) for each in added))
            for name, added in rows
        ),
    )


def pythons() -> str:
    """Return the versions of Python that the package says it supports."""
    versions = [found[1] for each in _project()["classifiers"] if (found := re.fullmatch(r".* :: (3\.\d+)", each))]
    return f"{', '.join(versions[:-1])} and {versions[-1]}"


def families() -> str:
    """Return the families of the catalog, as running text that the search finds."""
    return ", ".join(sorted(full_catalog().families))


def _project() -> dict[str, Any]:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]


def _bound(requirement: str) -> tuple[str, str]:
    name, _, version = requirement.partition(">=")
    return _code(name), version


def _code(text: str) -> str:
    return text if text == NOT_STATED else f"`{text}`"


def _table(*rows: Iterable[str]) -> str:
    head, *body = map(list, rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


ALL = {
    "dependencies": dependencies(),
    "extras": extras(),
    "families": families(),
    "licenses": licenses(),
    "pythons": pythons(),
}
