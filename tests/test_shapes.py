"""Quick shapes: the same results as torch's own, and the same refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobackbone.sources.shapes import quick_shapes

X = {"device": "meta", "requires_grad": True}


def image(*shape, **options):
    return torch.empty(shape or (2, 6, 8, 10), **(X | options))


PASSES = {
    "batch norm": lambda: nn.BatchNorm2d(6, device="meta")(image()),
    "batch norm in eval": lambda: nn.BatchNorm2d(6, device="meta").eval()(image()),
    "batch norm, no weights": lambda: nn.BatchNorm2d(6, affine=False, device="meta")(image()),
    "batch norm, one frozen": lambda: F.batch_norm(image(), None, None, image(6), torch.ones(6, device="meta"), True),  # noqa: FBT003
    "layer norm": lambda: nn.LayerNorm(10, device="meta")(image()),
    "layer norm over two": lambda: nn.LayerNorm((8, 10), device="meta")(image()),
    "gelu": lambda: F.gelu(image()),
    "relu": lambda: F.relu(image()),
    "silu in place": lambda: F.silu(image() * 1, inplace=True),
    "hardswish in place": lambda: F.hardswish(image() * 1, inplace=True),
    "tanh": lambda: image().tanh(),
    "recurrent": lambda: nn.LSTM(10, 4, device="meta")(image(3, 2, 10))[0],
    "sigmoid": lambda: image().sigmoid(),
    "softmax": lambda: image().softmax(-1),
    "attention": lambda: F.scaled_dot_product_attention(image(), image(), image()),
    "linear": lambda: nn.Linear(10, 7, device="meta")(image()),
    "linear on rows": lambda: nn.Linear(10, 7, device="meta")(image(4, 10)),
    "sum": lambda: image() + image(),
    "sum, spread": lambda: image() + image(1, 6, 1, 10),
    "sum, spread the other way": lambda: image(1, 6, 1, 10) + image(),
    "sum, fewer dimensions": lambda: image() + image(10),
    "sum with a number": lambda: image() + 2,
    "product of types": lambda: image() * image(dtype=torch.float64),
    "product of integers": lambda: torch.ones(3, device="meta", dtype=torch.int64) * 1.5,
    "quotient": lambda: image() / image(2, 6, 1, 1),
    "mean": lambda: image().mean((2, 3)),
    "mean kept": lambda: image().mean((-1, 1), keepdim=True),
    "mean of all": lambda: image().mean(),
    "bicubic": lambda: F.interpolate(image(), (5, 31), mode="bicubic"),
    "bilinear": lambda: F.interpolate(image(), (5, 31), mode="bilinear"),
    "channels last": lambda: F.gelu(image().to(memory_format=torch.channels_last)),
    "half precision": lambda: nn.LayerNorm(10, device="meta", dtype=torch.bfloat16)(image(dtype=torch.bfloat16)),
    "initialized": lambda: nn.init.trunc_normal_(image(3, 4, requires_grad=False)),
}
REFUSED = {
    "linear": lambda: F.linear(image(), image(7, 9)),
    "rows": lambda: torch.addmm(image(7), image(4, 10), image(9, 7)),
    "sum": lambda: image() + image(2, 6, 8, 9),
    "layer norm": lambda: F.layer_norm(image(), (9,)),
    "batch norm": lambda: F.batch_norm(image(), torch.ones(5, device="meta"), torch.ones(5, device="meta")),
    "mean": lambda: image().mean((2, 7)),
    "interpolate": lambda: F.interpolate(image(), (0, 3), mode="bicubic"),
}


def told(y):
    return y.shape, y.dtype, y.device, y.stride(), y.requires_grad


@pytest.mark.parametrize("name", PASSES)
def test_results_are_torchs(name):
    usual = PASSES[name]()
    with quick_shapes():
        quick = PASSES[name]()
    assert told(quick) == told(usual)
    if usual.requires_grad:
        usual.sum().backward()
        with quick_shapes():
            quick.sum().backward()


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_torchs(name):
    with pytest.raises((RuntimeError, IndexError, ZeroDivisionError)) as usual:
        REFUSED[name]()
    with quick_shapes(), pytest.raises(usual.type):
        REFUSED[name]()


def test_gradients_have_their_shapes():
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, device="meta"), nn.BatchNorm2d(6, device="meta"), nn.GELU(), nn.LayerNorm(8, device="meta")
    )
    with quick_shapes():
        layers(image(2, 3, 10, 10)).mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in layers.parameters())


def test_tensors_with_values_are_computed():
    with quick_shapes():
        assert (torch.ones(3) + 1).tolist() == [2, 2, 2]
        assert F.relu(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
