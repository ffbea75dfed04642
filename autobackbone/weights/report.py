"""The report on the weights loaded into a model."""

from dataclasses import dataclass

from autobackbone.addresses import redacted


@dataclass(frozen=True)
class WeightsReport:
    """The weights loaded into a model, and their origin.

    Attributes
    ----------
    origin
        Origin of the weights: a path, an address, a repository, or the name of published weights. Passwords and
        signatures in an address are hidden.
    entry
        Key of the state dict in the checkpoint, such as ``"state_dict"``; empty if the checkpoint is a state dict.
    prefix
        Prefix stripped from its names, such as ``"module.backbone."``.
    converted
        Whether tensors were renamed or reshaped: from another library's names, image size or number of channels.
    loaded, total
        How many numbers were loaded, and how many the parameters and persistent buffers of the model hold.
    missing
        Parameters and buffers of the model that the checkpoint lacks. They are unchanged.
    unexpected
        Names in the state dict, without the prefix, that the model does not have. Not counted are classifiers, layers
        that the model was created without, and names that a library's conversion leaves out.
    mismatched
        Parameters and buffers of the model for which the checkpoint has another shape or kind of number.
    nonfinite
        Parameters and buffers of the model that now hold NaN or infinity. Published weights are not checked.
    """

    origin: str
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
        object.__setattr__(self, "origin", redacted(self.origin))

    @property
    def coverage(self) -> float:
        """Share of the model's numbers that were loaded, from 0 to 1."""
        return self.loaded / self.total if self.total else 1.0

    def __str__(self) -> str:
        parts = [f"{self.coverage:.1%} of {self.total:,} numbers loaded from {self.origin!r}"]
        if self.entry:
            parts.append(f"entry {self.entry!r}")
        if self.prefix:
            parts.append(f"prefix {self.prefix!r}")
        if self.converted:
            parts.append("converted")
        for name in ("missing", "mismatched", "unexpected", "nonfinite"):
            names = getattr(self, name)
            if names:
                parts.append(f"{len(names)} {name} (first {names[0]!r})")
        return "; ".join(parts)
