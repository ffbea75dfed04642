"""The report on what was loaded into a model, and from where."""

from dataclasses import dataclass

from autobackbone.addresses import redacted


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded into a model, and from where.

    Attributes
    ----------
    source
        What the weights were asked for by: a path, an address, a repository, or the name of published weights.
        Passwords and signatures in an address are hidden.
    entry
        Where in the checkpoint the state dict was, such as ``"state_dict"``; empty if it is the checkpoint.
    prefix
        What was stripped from its names, such as ``"module.backbone."``.
    converted
        Whether tensors were renamed or reshaped: to another library's names, another size or number of channels.
    loaded, total
        Numbers loaded, and numbers that the parameters and persistent buffers of the model hold.
    missing
        Parameters and buffers of the model that nothing was found for; they are as they were.
    unexpected
        Names of the state dict, without the prefix, that the model has no place for. Classifiers and layers that the
        model was made without are not counted, nor is what a library's conversion of other names leaves out.
    mismatched
        Parameters and buffers of the model whose tensor is of another shape, or not of the same kind of number.
    nonfinite
        Parameters and buffers of the model that were given NaN or infinity. Published weights are not searched.
    """

    source: str
    entry: str = ""
    prefix: str = ""
    converted: bool = False
    loaded: int = 0
    total: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", redacted(self.source))

    @property
    def coverage(self) -> float:
        """Share of the model's numbers that was loaded, from 0 to 1."""
        return self.loaded / self.total if self.total else 1.0

    def __str__(self) -> str:
        parts = [f"{self.coverage:.1%} of {self.total:,} numbers loaded from {self.source!r}"]
        if self.entry:
            parts.append(f"entry {self.entry!r}")
        if self.prefix:
            parts.append(f"prefix {self.prefix!r}")
        if self.converted:
            parts.append("converted")
        for name in ("missing", "mismatched", "unexpected", "nonfinite"):
            found = getattr(self, name)
            if found:
                parts.append(f"{len(found)} {name} (first {found[0]!r})")
        return "; ".join(parts)
