"""Frozen norms and stages, against torchvision's, and what becomes of them when something is thawed."""

import copy
import functools

import pytest
import torch
from families import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import convert_sync_batchnorm
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    FeaturePyramid,
    create_backbone,
    create_feature_backbone,
    freeze_norms,
    freeze_stages,
    layer_decay_param_groups,
    unfreeze_norms,
    unfreeze_stages,
)


def make(name="test_resnet", **arguments):
    return create_feature_backbone(name, pretrained=False, **arguments)


def trainable(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


def norms(backbone):
    return {n: m for n, m in backbone.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


cached = functools.cache(make)


def spread(model):
    """Give every norm weights and statistics of its own, as training does."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.2)
    return model


@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_norms_compute_what_torchvisions_do(frozen):
    """One step of training a ResNet-50: the same maps and the same gradients as with ``FrozenBatchNorm2d``."""
    backbone = spread(make("resnet50")).double()
    freeze_stages(backbone, frozen)
    freeze_norms(backbone, affine=True)
    reference = resnet50(norm_layer=FrozenBatchNorm2d).double()
    reference.load_state_dict(backbone.body.model.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (backbone, reference):
        model.train()
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    expected = [x := layer(x) for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4)][1:]
    found = backbone(images)
    for maps in (found, expected):
        sum(y.square().mean() for y in maps).backward()
    for y, e in zip(found, expected, strict=True):
        torch.testing.assert_close(y, e)
    theirs = dict(reference.named_parameters())
    ours = {name.removeprefix("body.model."): p for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(ours) == {0: 52, 2: 29}[frozen]
    for name, p in ours.items():
        grad = theirs[name].grad
        torch.testing.assert_close(p.grad, grad, rtol=1e-7, atol=1e-9 * float(grad.abs().max()), msg=name)


def test_frozen_convolutions_are_as_many_as_torchvisions():
    counts = {}
    for layers in range(5, -1, -1):
        body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=layers).body
        convolutions = [m for m in body.modules() if isinstance(m, nn.Conv2d)]
        counts[layers] = sum(not conv.weight.requires_grad for conv in convolutions)
    with torch.device("meta"):
        backbone = make("resnet50")
    ours = {}
    for layers in counts:
        if layers < 5:
            freeze_stages(backbone, 4 - layers)
        ours[layers] = sum(not m.weight.requires_grad for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert ours == counts == dict(zip(range(5, -1, -1), (0, 1, 11, 24, 43, 53), strict=True))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_resnet", {}),
        ("test_efficientnet", {}),  # norm and activation in one module
        ("mobileone_s0", {"out_indices": (1,)}),  # several norms side by side
        ("hrnet_w18_small", {"out_indices": (2,)}),  # some that nothing depends on
        ("levit_128s", {"img_size": 64}),  # norms over tokens
        ("test_vit", {"pyramid": "simple", "pyramid_channels": 8}),  # none
        ("dinov3_convnext_tiny", {"extra_kwargs": {"depths": [1, 1, 1, 1]}}),
    ],
)
def test_statistics_stay_and_weights_train(name, arguments):
    backbone = make(name, **arguments)
    everything = trainable(backbone)
    freeze_norms(nn.Sequential(FeaturePyramid(backbone, 8)))
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    for mode in (False, True):  # as a training loop does
        nn.Sequential(backbone).train(mode)
    sum(y.square().mean() for y in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())
    assert {n for n, p in backbone.named_parameters() if p.grad is not None} == trainable(backbone) == everything
    assert backbone.body.training
    assert all(not norm.training for norm in norms(backbone).values())
    freeze_norms(backbone, affine=True)
    inside = {f"{n}.{key}" for n, norm in norms(backbone).items() for key, _ in norm.named_parameters()}
    assert trainable(backbone) == everything - inside
    unfreeze_norms(backbone)
    assert trainable(backbone) == everything
    assert all(module.training for module in backbone.modules())
    assert bool(norms(backbone)) == (name not in ("test_vit", "dinov3_convnext_tiny"))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("stages"), st.sampled_from([None, 0, 1, 2, 3, -1])),
        st.tuples(st.just("norms"), st.sampled_from([None, False, True])),
    ),
    max_size=5,
)


@settings(max_examples=20)
@given(steps=steps)
def test_stages_and_norms_are_frozen_without_regard_to_each_other(steps):
    """Whatever was frozen and thawed before, the last call for stages and the last call for norms hold."""
    both, stages, affine = (copy.deepcopy(cached("test_resnet")) for _ in range(3))
    last = {"stages": None, "norms": None}

    def apply(backbone, kind, value):
        if value is None:
            (unfreeze_stages if kind == "stages" else unfreeze_norms)(backbone)
        elif kind == "stages":
            freeze_stages(backbone, value)
        else:
            freeze_norms(backbone, affine=value)

    for kind, value in steps:
        last[kind] = value
        apply(both, kind, value)
    apply(stages, "stages", last["stages"])
    apply(affine, "norms", last["norms"])
    for backbone in (both, stages, affine):
        backbone.eval()
        backbone.train()
    assert trainable(both) == trainable(stages) & trainable(affine)
    modules = [dict(backbone.named_modules()) for backbone in (both, stages, affine)]
    for name, module in modules[0].items():
        assert module.training == (modules[1][name].training and modules[2][name].training), name


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_thawed_by_hand_trains_again(whole):
    backbone = make("test_vit", extra_kwargs={"pos_drop_rate": 0.1, "proj_drop_rate": 0.1})
    freeze_stages(backbone, 3)
    part = backbone if whole else backbone.body.model.blocks[1]
    nn.Sequential(part).requires_grad_(requires_grad=True)
    nn.Sequential(backbone).train()
    blocks = backbone.body.model.blocks
    assert [all(m.training for m in block.modules()) for block in blocks] == [whole, True, whole, True, True, True]
    assert [any(m.training for m in block.modules()) for block in blocks] == [whole, True, whole, True, True, True]
    assert (backbone.frozen == frozenset()) == whole
    if whole:
        assert all(module.training for module in backbone.modules())
    freeze_stages(backbone, 1)
    assert not any(m.training for m in blocks[0].modules())
    assert blocks[1].training
    assert not backbone.body.model.pos_drop.training


def test_statistics_stay_frozen_when_parameters_are_thawed_by_hand():
    backbone = make()
    freeze_norms(backbone, affine=True)
    backbone.requires_grad_(requires_grad=False).requires_grad_(requires_grad=True).train()
    assert len(trainable(backbone)) == len(list(backbone.parameters()))
    assert all(not norm.training for norm in norms(backbone).values())


def test_copied_and_converted_norms_stay_frozen():
    backbone = make("test_efficientnet")
    freeze_norms(backbone)
    for other in (copy.deepcopy(backbone), convert_sync_batchnorm(copy.deepcopy(backbone))):
        other.train()
        assert norms(other)
        assert all(not norm.training for norm in norms(other).values())


def test_groups_with_what_is_frozen_train_it_once_it_is_thawed():
    backbone = spread(make())  # else what comes before a norm whose weights are zero has no gradient
    freeze_stages(backbone, 2)
    groups = layer_decay_param_groups(backbone, 0.1, include_frozen=True)
    thawed = make()
    thawed.load_state_dict(backbone.state_dict())
    assert [len(g["params"]) for g in groups] == [len(g["params"]) for g in layer_decay_param_groups(thawed, 0.1)]
    optimizer = torch.optim.AdamW(groups)
    before = copy.deepcopy(backbone.state_dict())
    x = torch.randn(2, 3, 64, 64)

    def changed():
        optimizer.zero_grad()
        sum(y.square().mean() for y in backbone(x)).backward()
        optimizer.step()
        return {name for name, p in backbone.named_parameters() if not torch.equal(p, before[name])}

    assert changed() == trainable(backbone)
    unfreeze_stages(backbone)
    assert changed() == {name for name, _ in backbone.named_parameters()}


def test_freezing_is_not_saved(tmp_path):
    backbone = make()
    freeze_stages(backbone, -1)
    freeze_norms(backbone, affine=True)
    backbone.save_pretrained(tmp_path)
    again = FeatureBackbone.from_pretrained(tmp_path)
    assert len(trainable(again)) == len(list(again.parameters()))
    assert all(module.training for module in again.modules())


@pytest.mark.parametrize("model", [lambda: create_backbone("test_resnet", pretrained=False), resnet18])
def test_norms_of_what_is_no_feature_backbone(model):
    with pytest.raises(ConfigError, match=r"freeze_norms\(\) takes a FeatureBackbone|has 0 backbones"):
        freeze_norms(model())


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("test_")])
def test_nothing_that_has_statistics_is_missed(name):
    """Found otherwise: whatever a forward pass in training mode changes."""
    backbone = make(name, **({"img_size": 64} if "coat" in name or "maxxvit" in name else {})).train()
    freeze_norms(backbone)
    before = copy.deepcopy(backbone.state_dict())
    size = backbone.input_spec.size
    backbone(torch.randn(2, 3, *size))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
