"""What can get no gradient is no parameter: it is saved and loaded, and nothing makes it train."""

import copy

import pytest
import timm
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autobackbone import (
    FeatureBackbone,
    create_backbone,
    create_feature_backbone,
    freeze_stages,
    layer_decay_param_groups,
    load_weights,
    unfreeze_stages,
)

SMALL_VIT = {"extra_kwargs": {"num_hidden_layers": 1}}
CASES = {
    "hrnet": (create_feature_backbone, "hrnet_w18_small", {"out_indices": (2,)}),
    "coat": (create_feature_backbone, "coat_tiny", {"out_indices": (1,), "img_size": 64}),
    "crossvit": (create_feature_backbone, "crossvit_tiny_240", {"out_indices": (0,), "img_size": 64}),
    "dinov3": (create_feature_backbone, "dinov3_vits16", {"out_indices": (0,), **SMALL_VIT}),
    "dinov3, pooled": (create_backbone, "dinov3_vits16", SMALL_VIT),
}


def make(case):
    create, name, arguments = CASES[case]
    return create(name, pretrained=False, **arguments)


def network(model):
    return model.get_submodule(model.autobackbone.network_path)


def unused(model):
    """Return the names of buffers that are weights in the library."""
    return {name for name, _ in model.named_buffers() if name.endswith((".weight", ".bias", "token"))}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_gets_a_gradient_after_thawing(case):
    model = make(case).train()
    nn.Sequential(model).requires_grad_(requires_grad=False).requires_grad_(requires_grad=True)
    for p in model.parameters():
        p.requires_grad = True
    y = model(torch.randn(2, 3, 64, 64))
    sum(m.square().mean() for m in (y if isinstance(y, list) else [y])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert unused(model)
    grouped = [p for group in layer_decay_param_groups(model, 0.1, include_frozen=True) for p in group["params"]]
    assert len(grouped) == len(list(model.parameters()))


@pytest.mark.parametrize("case", ["hrnet", "dinov3"])
def test_ddp_waits_for_no_gradient_that_never_comes(case):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        model = make(case).requires_grad_(requires_grad=False).requires_grad_(requires_grad=True)
        wrapped = DistributedDataParallel(model)
        for _ in range(2):  # a gradient that did not come is an error in the second step
            sum(y.square().mean() for y in wrapped(torch.randn(2, 3, 64, 64))).backward()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("case", ["hrnet", "dinov3", "dinov3, pooled"])
def test_it_is_saved_loaded_copied_and_frozen_as_before(case, tmp_path):
    model = make(case)
    with torch.device("meta"):
        empty = make(case)
    assert unused(empty) == unused(model)
    names = unused(model)
    for name in names:
        model.get_buffer(name).fill_(0.5)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = make(case)
    assert load_weights(other, tmp_path / "state.pt").coverage == 1
    empty.load_state_dict(model.state_dict(), assign=True)
    copies = [other, copy.deepcopy(model), empty]
    if isinstance(model, FeatureBackbone):
        model.save_pretrained(tmp_path / "saved")
        copies.append(FeatureBackbone.from_pretrained(tmp_path / "saved"))
        freeze_stages(model, -1)
        unfreeze_stages(model)
    for same in [*copies, model.double()]:
        assert unused(same) == names
        assert all(bool((same.get_buffer(name) == 0.5).all()) for name in names)


@pytest.mark.parametrize("case", ["hrnet", "coat"])
def test_names_are_the_librarys(case):
    _, name, arguments = CASES[case]
    size = {k: v for k, v in arguments.items() if k == "img_size"}
    with torch.device("meta"):
        ours, whole = network(make(case)).state_dict(), timm.create_model(name, **size).state_dict()
    assert ours.keys() <= whole.keys()
    assert all(value.shape == whole[key].shape for key, value in ours.items())


def test_norms_that_nothing_depends_on_are_converted_with_the_others():
    model = make("hrnet").eval()
    converted = convert_sync_batchnorm(copy.deepcopy(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    assert converted.state_dict().keys() == model.state_dict().keys()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(y, e) for y, e in zip(converted(x), model(x), strict=True))


def test_maps_are_timms_where_norms_are_unused():
    model = make("hrnet").eval()
    raw = timm.create_model("hrnet_w18_small").eval()
    raw.load_state_dict(network(model).state_dict(), strict=False)  # it has a head as well
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (expected,) = raw.forward_intermediates(x, indices=[2], intermediates_only=True)
        assert torch.equal(model(x)[0], expected)
