"""What is particular to a network when checkpoints are matched to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

StateDict = Mapping[str, Tensor]
Converter = Callable[[StateDict, StateDict], StateDict | None]
# Counts batches for batch norms without momentum. Older checkpoints do not have it.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class CheckpointRules:
    """What is particular to a network when checkpoints are matched to it.

    Attributes
    ----------
    head_prefixes
        Prefixes of the names of classifiers. The checkpoint may lack them, and so may the network.
    pruned_names
        Names of tensors that a checkpoint may have and the network was made without.
    converters
        Functions that are tried in order where names or shapes differ. Each takes a state dict and the network's own,
        and returns the first in the names and shapes of the second, with the tensors that the network has no place
        for. It returns ``None`` for a state dict of a kind that it does not know.
    build
        Builds the network once more, with random weights, as its own code initializes it. ``None``: not known.
    is_folded
        Whether tensors of the network are made from several of those that it was trained with. Those alone are of no
        use to it.
    """

    head_prefixes: tuple[str, ...] = ()
    pruned_names: frozenset[str] = frozenset()
    converters: tuple[Converter, ...] = ()
    build: Callable[[], nn.Module] | None = None
    is_folded: bool = False
