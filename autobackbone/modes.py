"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn

from autobackbone.unwrapping import unwrap

_modes: dict[nn.Module, tuple[int, dict[nn.Module, bool]]] = {}  # of backbones at work: their users, modes before
_lock = Lock()


@contextmanager
def evaluating(backbone: nn.Module) -> Iterator[None]:
    """Put a backbone in evaluation mode, and its modules back in the modes that they were in.

    If several threads use a backbone, the last one to end puts them back.
    """
    inner = unwrap(backbone)
    with _lock:
        users, modes = _modes.get(inner, (0, {}))
        modes = {module: module.training for module in backbone.modules()} | modes
        _modes[inner] = (users + 1, modes)
        backbone.eval()
    try:
        yield
    finally:
        with _lock:
            users, modes = _modes.pop(inner)
            if users > 1:
                _modes[inner] = (users - 1, modes)
            else:
                for module, mode in modes.items():
                    module.training = mode
