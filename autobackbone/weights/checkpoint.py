"""A checkpoint: weights that are opened once for everything that is loaded from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from autobackbone.weights.files import read_checkpoint, resolve_files


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights in files or in memory, opened when their content is first needed.

    Attributes
    ----------
    origin
        What the weights were asked for by, for messages: a path, an address, a repository.
    read
        Returns the content.
    """

    origin: str
    read: Callable[[], Mapping[str, Any]] = field(repr=False)

    @classmethod
    def at(cls, origin: str, cache_dir: str | None = None) -> Self:
        """Return the checkpoint that ``weights=`` names. Its files are found, or fetched, when it is opened."""
        return cls(origin, lambda: read_checkpoint(resolve_files(origin, cache_dir=cache_dir), origin))

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """A state dict, or mappings that contain some.

        Raises
        ------
        WeightsError
            If the weights cannot be found, fetched or read.
        """
        return self.read()
