"""The facts about a backbone as text."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autobackbone.cli.options import by

if TYPE_CHECKING:
    from autobackbone.catalog.card import BackboneCard

# Columns of the list: heading, and the function that formats a value.
COLUMNS: dict[str, Callable[[Any], str]] = {
    "name": str,
    "family": str,
    "params": lambda count: f"{count / 1e6:.1f} M",
    "macs": lambda count: f"{count / 1e9:.2f} G",
    "strides": lambda strides: " ".join(map(str, strides)),
    "size": by,
    "any_size": lambda yes: "yes" if yes else "no",
    "license": str,
    "weights": str,
}


def facts(card: "BackboneCard") -> dict[str, str]:
    """Return the facts about a backbone as text, by their headings."""
    return {
        "family": f"{card.family} ({card.source})",
        "params": COLUMNS["params"](card.params),
        "macs": f"{COLUMNS['macs'](card.macs)} at the default size",
        "strides": ", ".join(map(str, dict.fromkeys(card.strides))),
        "tokens": ", ".join(f"{count} {kind}" for kind, count in card.prefix_tokens.items()) or "none",
        "export": "yes" if card.exportable else "no",
        "license": card.license or "not stated",
        "hub": card.hub_id or "none",
    }


def sizes(card: "BackboneCard", spec: Any) -> str:
    """Return the accepted image sizes of a backbone as text."""
    if not spec.fixed_size:
        padded = f", padded to multiples of {spec.size_divisor}" if spec.size_divisor > 1 else ""
        return f"{by(spec.size)} by default, any size from {spec.min_size}x{spec.min_size}{padded}"
    return f"{by(spec.size)} only" + (" (another with img_size)" if card.size_divisor else "")
