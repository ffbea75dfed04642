"""The facts about a backbone as text."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from autobackbone.cli.options import by

if TYPE_CHECKING:
    from rich.table import Table

    from autobackbone.catalog.card import BackboneCard


def count(number: int) -> str:
    """Return a count in millions, or in billions from there on."""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"


# Columns of the list: key, and the function that formats a value.
COLUMNS: dict[str, Callable[[Any], str]] = {
    "name": str,
    "family": str,
    "params": lambda number: f"{number / 1e6:.1f} M",
    "macs": count,
    "activations": count,
    "strides": lambda strides: " ".join(map(str, strides)),
    "size": by,
    "any_size": lambda yes: "yes" if yes else "no",
    "top1": lambda percent: f"{percent:.1f} %",
    "throughput": lambda rate: f"{rate:,.0f}",
    "license": str,
    "weights": str,
}
NUMBERS = ("params", "macs", "activations", "top1", "throughput", "weights")
HEADINGS = {"any_size": "any size", "throughput": "img/s", "top1": "top-1"}


def fill(table: "Table", rows: Sequence[dict[str, Any]], keys: Sequence[str], headings: Mapping[str, str]) -> None:
    """Add columns and rows of what `summarize` returns to a table; names are never broken."""
    from rich.markup import escape

    for key in keys:
        justify: Literal["left", "right"] = "right" if key in NUMBERS else "left"
        table.add_column(headings.get(key, key), justify=justify, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*("" if row[key] is None else escape(COLUMNS[key](row[key])) for key in keys))


def facts(card: "BackboneCard") -> dict[str, str]:
    """Return the facts about a backbone as text, by their headings."""
    return {
        "family": f"{card.family} ({card.source})",
        "params": COLUMNS["params"](card.params),
        "macs": f"{count(card.macs)} at the default size",
        "activations": f"{count(card.activations)} at the default size",
        "strides": ", ".join(map(str, dict.fromkeys(card.strides))),
        "tokens": ", ".join(f"{tokens} {kind}" for kind, tokens in card.prefix_tokens.items()) or "none",
        "export": "yes" if card.exportable else "no",
        "license": _license(card),
        "hub": _hub(card),
    }


def figures(card: "BackboneCard", device: str) -> dict[str, str]:
    """Return the published figures of a backbone as text, by their headings, and where they are from."""
    rows = {}
    if card.accuracy:
        rows["top-1"] = ", ".join(f"{COLUMNS['top1'](row.top1)} at {row.size}" for row in card.accuracy)
    rates = [(getattr(row, device), row.size) for row in card.throughput]
    if any(rate is not None for rate, _ in rates):
        shown = ", ".join(f"{rate:,.0f} at {size}" for rate, size in rates if rate is not None)
        rows["img/s"] = f"{shown} ({device})"
    return rows


def source_of_figures() -> str:
    """Return what has to be said where published figures are shown."""
    from autobackbone.catalog.figures import shipped

    source = shipped().source
    return (
        "Top-1 and img/s: published by timm, not measured here; of the classifier with these weights on ImageNet-1k, "
        f"not of a detector ({source['license']}, {source['date']})."
        if source
        else ""
    )


def _license(card: "BackboneCard") -> str:
    if card.license is None:
        return "not stated" if card.hub_id else "none"
    return card.license + ("" if card.commercial else " (read it before commercial use)")


def _hub(card: "BackboneCard") -> str:
    if card.ungated is None:
        return card.hub_id or "none"
    return (
        f"{card.hub_id}, gated: accept its license at https://huggingface.co/{card.hub_id}, then `hf auth login`; the "
        f"same weights without a gate: {card.ungated}"
    )


def sizes(card: "BackboneCard", spec: Any) -> str:
    """Return the accepted image sizes of a backbone as text."""
    if not spec.fixed_size:
        padded = f", padded to multiples of {spec.size_divisor}" if spec.size_divisor > 1 else ""
        return f"{by(spec.size)} by default, any size from {spec.min_size}x{spec.min_size}{padded}"
    return f"{by(spec.size)} only" + (" (another with --img-size)" if card.size_divisor else "")
