"""Random weights: each parameter that stays is initialized once, and as the library itself initializes it."""

import math

import pytest
import timm
import torch
from families import FAMILIES, spread
from torch import nn

from autobackbone import create_backbone, create_feature_backbone
from autobackbone.weights.building import Built
from autobackbone.weights.random_init import build_random
from autobackbone.weights.rules import CheckpointRules

# Two samples of one distribution are further apart than this once in a million times (Kolmogorov and Smirnov).
FARTHEST = math.sqrt(-math.log(1e-6 / 2) / 2)


@pytest.mark.parametrize("family", spread(FAMILIES))
def test_distributed_as_in_timms_own_creation(family):
    """Constants are equal, and random values come from the same distribution."""
    torch.manual_seed(1)
    one = _tensors(timm.create_model(family.name, **family.extra_kwargs))
    torch.manual_seed(2)
    other = _tensors(timm.create_model(family.name, **family.extra_kwargs))
    ours = _tensors(
        create_feature_backbone(
            family.name, pretrained=False, out_indices=(-1,), extra_kwargs=family.extra_kwargs
        ).body.model
    )
    assert ours
    for name, values in ours.items():
        expected = one[name]
        assert values.dtype == expected.dtype
        if torch.equal(expected, other[name]):
            assert torch.equal(values, expected), name
        else:
            assert _distance(values, expected) < FARTHEST, name


def test_a_seed_gives_the_same_values_again():
    for create in (create_feature_backbone, create_backbone):
        states = []
        for _ in range(2):
            torch.manual_seed(4)
            states.append(create("test_efficientnet", pretrained=False).state_dict())
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_what_is_pruned_is_not_initialized(monkeypatch):
    backbone, drawn = _counted(monkeypatch, lambda: create_feature_backbone("mobilenetv4_conv_small", pretrained=False))
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(drawn) == len(convolutions)
    assert sum(drawn) == sum(m.weight.numel() for m in convolutions)


def test_code_that_reads_a_parameter_sees_its_values():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.doubled = nn.Parameter(torch.empty(4))
            nn.init.ones_(self.doubled)
            view = self.doubled.data
            nn.init.constant_(self.doubled, 3)
            view.mul_(2)
            self.sum = float(self.doubled.detach().sum())
            self.copied = nn.Parameter(torch.empty(4))
            source = torch.full((4,), 5.0)
            with torch.no_grad():
                self.copied.copy_(source)
            source.zero_()
            self.scaled = nn.Parameter(torch.empty(4))
            nn.init.constant_(self.scaled, 7)
            with torch.no_grad():
                self.scaled.mul_(2).add_(1)
            pruned = nn.Parameter(torch.empty(4))
            nn.init.constant_(pruned, 8)
            self.alias = nn.Parameter(pruned)
            self.register_buffer("joined", torch.cat([self.doubled.detach(), self.scaled.detach()]))

    net = Net()
    built = build_random(lambda: Built(made := Net(), made, CheckpointRules())).module
    assert built.sum == net.sum == 24
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in built.state_dict().items())
    assert built.alias.tolist() == [8] * 4


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for prefix, module in model.named_modules():
        tensors |= {f"{prefix}.{k}": v for k, v in vars(module).items() if isinstance(v, torch.Tensor)}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far apart two samples are: the statistic of Kolmogorov and Smirnov, in units of its scale."""
    one, other = (t.flatten()[:20_000].double().sort().values for t in (one, other))
    at = torch.cat([one, other])
    shares = [torch.searchsorted(t, at, right=True) / len(t) for t in (one, other)]
    return float((shares[0] - shares[1]).abs().max()) * math.sqrt(len(one) / 2)


def _counted(monkeypatch, create):
    """Return a model, and the number of values in each call that drew normal ones."""
    drawn = []
    draw = torch.Tensor.normal_

    def counted(self, *args, **kwargs):
        drawn.append(self.numel())
        return draw(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "normal_", counted)
        return create(), drawn
