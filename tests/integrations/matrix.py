"""The table of heads and backbones in docs/heads.md: read, and written from what the tests ran."""

from pathlib import Path

from heads import BACKBONES, HEADS, QUARTERS

PAGE = Path(__file__).parents[2] / "docs" / "heads.md"
CANNOT = "no"
_START, _END = "<!-- from the tests -->\n", "<!-- to here -->\n"


def read_page() -> dict[str, list[str]]:
    """Return for each head what the page says of each backbone."""
    between = PAGE.read_text(encoding="utf-8").split(_START)[1].split(_END)[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in between.splitlines() if row[:1] == "|"]
    return {row[0]: row[2:] for row in rows[2:]}


def write_page(outcomes: list[str]) -> None:
    """Write the table: of every head and backbone, what ran, as ``head/backbone/outcome``."""
    ran = dict(outcome.rsplit("/", 1) for outcome in outcomes)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(_START)
    cells = {h.name: [ran.get(f"{h.name}/{b.name}", "did not run") for b in BACKBONES] for h in HEADS}
    PAGE.write_text(f"{before}{_START}\n{table(cells)}\n{_END}{rest.split(_END)[1]}", encoding="utf-8")


def table(outcomes: dict[str, list[str]]) -> str:
    """Return the table, and below it why a head takes no other backbones or sizes."""
    names = [f"{b.kind}, `{b.name}`" for b in BACKBONES]
    lines = [f"| head | class | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    lines += [f"| {h.name} | `{h.model.__name__}` | {' | '.join(outcomes[h.name])} |" for h in HEADS]
    whys = {h.name: h.why for h in HEADS if h.why}
    sizes = [f"- {', '.join(n for n in whys if whys[n] == why)}: {why}." for why in dict.fromkeys(whys.values())]
    without = ", ".join(name for name, cells in outcomes.items() if CANNOT in cells)
    return "\n".join(
        [*lines, "", "Why not any size:", "", *sizes, "", "Why not every backbone:", "", f"- {without}: {QUARTERS}."]
    )
