"""Building and running models on the meta device, and the errors that come of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autobackbone.sources.shapes import quick_shapes

# What timm and torch raise if a size or an argument does not suit a model.
FAILURES = (
    AssertionError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    ArithmeticError,
    AttributeError,
    StopIteration,
)


@contextmanager
def meta_device() -> Iterator[None]:
    """Build on the meta device, with gradients, in any mode of the caller."""
    with torch.device("meta"), torch.inference_mode(mode=False), torch.enable_grad(), quick_shapes():
        yield
