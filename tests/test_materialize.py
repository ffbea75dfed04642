"""From the meta device to memory: what no checkpoint holds is what the library would have computed."""

import copy
import pickle

import pytest
import timm
import torch
from families import DINOV3_FAMILIES, FAMILIES, spread
from safetensors.torch import save_file
from timm.models._manipulate import reinit_non_persistent_buffers
from torch import nn

from autobackbone import (
    ConfigError,
    WeightsError,
    create_backbone,
    create_feature_backbone,
    init_non_persistent_buffers,
    load_weights,
)


def _poison(model: nn.Module) -> None:
    """Fill memory with what nobody wants to find there."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 77)


def _meta(create, *args, **fields):
    with torch.device("meta"):
        return create(*args, pretrained=False, **fields)


def _check_same(model: nn.Module, expected: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        others = dict(getattr(expected, kind)(remove_duplicate=False))
        found = dict(getattr(model, kind)(remove_duplicate=False))
        assert found.keys() == others.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, others[name]), name
            assert tensor.requires_grad == others[name].requires_grad


@pytest.mark.parametrize("family", spread(FAMILIES + DINOV3_FAMILIES))
def test_meta_then_memory_then_a_state_dict(family):
    fields = {"extra_kwargs": family.extra_kwargs}
    plain = create_feature_backbone(family.name, pretrained=False, **fields).eval()
    if plain.autobackbone.input_spec.fixed_size:
        fields["img_size"] = family.size
        plain = create_feature_backbone(family.name, pretrained=False, **fields).eval()
    late = _meta(create_feature_backbone, family.name, **fields).eval().to_empty(device="cpu")
    _poison(late)
    late.load_state_dict(plain.state_dict())
    _check_same(late, plain)
    assigned = _meta(create_feature_backbone, family.name, **fields).eval()
    assigned.load_state_dict(plain.state_dict(), assign=True)
    _check_same(assigned, plain)
    x = torch.rand(1, 3, *family.size)
    with torch.no_grad():  # which some fill caches in
        assert all(torch.equal(a, b) for a, b in zip(late(x), plain(x), strict=True))


NAMES = ["test_resnet", "swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3", "dinov3_vits16"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("create", [create_feature_backbone, create_backbone])
@pytest.mark.parametrize("empty", [False, True])
def test_load_weights(name, create, empty, tmp_path):
    plain = create(name, pretrained=False)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    late = _meta(create, name)
    if empty:
        _poison(late.to_empty(device="cpu"))
    report = load_weights(late, tmp_path / "w.pth")
    assert report.coverage == 1
    assert late.autobackbone.weights_report is report
    _check_same(late, plain)
    _check_same(pickle.loads(pickle.dumps(late)), plain)  # noqa: S301 - our own
    _check_same(copy.deepcopy(late), plain)


def test_what_a_checkpoint_lacks_is_initialized(tmp_path):
    torch.manual_seed(3)
    state = {k: v for k, v in timm.create_model("test_resnet").state_dict().items() if not k.startswith("layer3.")}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    late = _meta(create_feature_backbone, "test_resnet")
    late.body.model.conv1[0].weight.requires_grad = False
    with pytest.raises(WeightsError, match="missing"):
        load_weights(late, tmp_path / "w.pth")
    assert all(p.is_meta for p in late.parameters())
    report = load_weights(late, tmp_path / "w.pth", strict=False)
    assert 0 < report.coverage < 1
    assert not late.body.model.conv1[0].weight.requires_grad
    for name, tensor in late.body.model.named_parameters():
        assert bool(tensor.isfinite().all())
        assert (
            torch.equal(tensor, state[name]) if name in state else tensor.ndim == 1 or float(tensor.detach().std()) > 0
        )
    assert {int(b) for n, b in late.named_buffers() if n.endswith("num_batches_tracked")} == {0}


def test_a_simple_pyramid(tmp_path):
    fields = {"pyramid": "simple", "out_strides": (8, 16), "pyramid_channels": 16}
    plain = create_feature_backbone("test_vit", pretrained=False, **fields)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    late = _meta(create_feature_backbone, "test_vit", **fields)
    assert load_weights(late, tmp_path / "w.safetensors").coverage == 1
    _check_same(late, plain)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "bare.pth")
    late = _meta(create_feature_backbone, "test_vit", **fields)
    assert all(name.startswith("pyramid.") for name in load_weights(late, tmp_path / "bare.pth").missing)
    assert all(bool(p.isfinite().all()) for p in late.parameters())


def test_a_head(tmp_path):
    plain = create_backbone("test_vit", pretrained=False, num_classes=5)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    late = _meta(create_backbone, "test_vit", num_classes=5)
    assert load_weights(late, tmp_path / "w.safetensors").coverage == 1
    _check_same(late, plain)
    late = _meta(create_backbone, "test_vit", num_classes=4)
    assert load_weights(late, tmp_path / "w.safetensors").mismatched == ("head.weight", "head.bias")
    assert bool(late.head.weight.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_the_call(name):
    """A backbone that was in memory, and moved to the meta device later; beside another in one model."""
    model = nn.ModuleList(create_feature_backbone(name, pretrained=False).bfloat16() for _ in range(2))
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected[0](torch.rand(1, 3, 224, 224).bfloat16())
    model = model.to("meta").to_empty(device="cpu")
    _poison(model)
    init_non_persistent_buffers(model)
    model.load_state_dict(expected.state_dict())
    _check_same(model, expected)


def test_as_timm_computes_them():
    backbone = _meta(create_feature_backbone, "swin_tiny_patch4_window7_224").to_empty(device="cpu")
    _poison(backbone)
    twin = copy.deepcopy(backbone)
    init_non_persistent_buffers(backbone)
    reinit_non_persistent_buffers(twin)
    assert all(torch.equal(a, b) for a, b in zip(backbone.buffers(), twin.buffers(), strict=True))


def test_what_it_cannot_take():
    with pytest.raises(ConfigError, match="Linear has no backbone of this package"):
        init_non_persistent_buffers(nn.Linear(2, 2))
    model = create_backbone("dinov3_vits16", pretrained=False, extra_kwargs={"num_hidden_layers": 1})
    model.reset_classifier(3)
    with pytest.raises(WeightsError, match=r"was changed since it was created \(first 'head.weight'\)"):
        init_non_persistent_buffers(model)
