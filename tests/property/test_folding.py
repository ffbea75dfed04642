"""The law of folding: a norm goes if it alone reads what a convolution gives, and the outputs stay what they were."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autobackbone.folding import find_folds, fold

CHANNELS = 4
# How a norm stands to a convolution, and whether it can be folded.
PLACES = {
    "alone": True,
    "after an activation": False,
    "after a sum": False,
    "beside another reader": False,
    "in training code of its own": False,
    "of a convolution that is used twice": False,
    "used twice": False,
    "of weights that are computed": False,
    "without statistics": False,
    "of a transposed convolution": False,
    "whose input is returned": False,
}


class Scaled(nn.Conv2d):
    """A convolution whose weights are standardized in each pass."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


class Counting(nn.BatchNorm2d):
    """A norm that does something else beside."""

    def forward(self, x):
        return super().forward(x) * 2


class Block(nn.Module):
    """A convolution and a norm, in one of the places."""

    def __init__(self, place, conv, norm):
        super().__init__()
        self.place, self.conv, self.norm = place, conv, norm

    def forward(self, x):
        y = self.conv(x)
        if self.place == "after an activation":
            return self.norm(y.relu()), None
        if self.place == "after a sum":
            return self.norm(x + y), None
        if self.place == "beside another reader":
            return self.norm(y) + y, None
        if self.place == "of a convolution that is used twice":
            return self.norm(self.conv(y)), None
        if self.place == "used twice":
            return self.norm(self.norm(y)), None
        return self.norm(y), y if self.place == "whose input is returned" else None


class Network(nn.Module):
    """Blocks in a row."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        outputs = []
        for block in self.blocks:
            x, other = block(x)
            outputs += [x] if other is None else [x, other]
        return outputs


@st.composite
def blocks(draw):
    place = draw(st.sampled_from(sorted(PLACES)))
    affine = draw(st.booleans())
    kinds = {
        "of weights that are computed": Scaled,
        "of a transposed convolution": nn.ConvTranspose2d,
    }
    groups = draw(st.sampled_from([1, 2, CHANNELS]))
    padding_mode = "zeros" if place == "of a transposed convolution" else draw(st.sampled_from(["zeros", "reflect"]))
    kernel = draw(st.sampled_from([1, 3]))
    conv = kinds.get(place, nn.Conv2d)(
        CHANNELS,
        CHANNELS,
        kernel,
        padding=kernel // 2,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=padding_mode,
    )
    if place == "in training code of its own":
        norm = Counting(CHANNELS, affine=affine)
    elif place == "without statistics":
        norm = nn.BatchNorm2d(CHANNELS, affine=affine, track_running_stats=False)
    elif draw(st.booleans()):
        norm = BatchNormAct2d(CHANNELS, act_layer=draw(st.sampled_from([nn.ReLU, nn.PReLU, nn.Identity])))
    else:
        norm = nn.BatchNorm2d(CHANNELS, affine=affine, eps=draw(st.sampled_from([1e-5, 1e-3])))
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        if tensor is not None:
            nn.init.normal_(tensor)
    if norm.running_var is not None:
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return Block(place, conv, norm)


@given(st.lists(blocks(), min_size=1, max_size=4))
@torch.inference_mode()
def test_what_goes_and_what_stays(drawn):
    network = Network(drawn).eval()
    x = torch.randn(2, CHANNELS, 6, 7)
    expected = network(x)
    folds = find_folds(network, "", torch.empty(1, CHANNELS, 6, 7, device="meta"))
    assert [each.conv for each in folds] == [f"blocks.{i}.conv" for i, block in enumerate(drawn) if PLACES[block.place]]
    fold(network, folds)
    assert sum(isinstance(m, _BatchNorm) for m in network.modules()) == sum(not PLACES[b.place] for b in drawn)
    for y, e in zip(network(x), expected, strict=True):
        torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)
