"""Fast creation gives what slow creation gives, to the bit, down to buffers that no checkpoint holds."""

import pytest
import timm
import torch
from families import FAMILIES, spread
from safetensors.torch import save_file
from torch import nn

from autobackbone import create_backbone, create_feature_backbone
from autobackbone.weights.building import Built, SkipInit, build_loaded
from autobackbone.weights.rules import CheckpointRules

NESTED = {"vit_small_resnet50d_s16_224"}  # timm has it fetch the weights of its ResNet as well


@pytest.mark.parametrize("family", spread(FAMILIES))
def test_equal_to_timms_own_creation(family, tmp_path, monkeypatch):
    """An architecture of each module of timm, with published weights and with a file of one's own."""
    made = timm.create_model(family.name, **family.extra_kwargs)
    shared = len({t.data_ptr() for t in made.parameters()}) < len(list(made.named_parameters(remove_duplicate=False)))
    path = tmp_path / ("model.pth" if shared else "model.safetensors")
    (torch.save if shared else save_file)(made.state_dict(), path)
    overlay = {"file": path, "num_classes": made.num_classes}
    published = family.name not in NESTED
    if published:
        slow = timm.create_model(family.name, pretrained=True, pretrained_cfg_overlay=overlay, **family.extra_kwargs)
    else:
        slow = made
    built = []
    create = timm.create_model

    def counted(*args, **kwargs):
        if torch.get_default_device().type != "meta":
            built.append(args)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", counted)

    if published:
        extra = family.extra_kwargs | {"pretrained_cfg_overlay": overlay}
        fast = create_feature_backbone(family.name, out_indices=(-1,), extra_kwargs=extra)
        assert len(built) == 1, "the slow way was taken"
        _is_part_of(fast.body.model, slow)
    built.clear()
    fast = create_feature_backbone(family.name, out_indices=(-1,), extra_kwargs=family.extra_kwargs, weights=path)
    assert len(built) == 1, "the slow way was taken"
    _is_part_of(fast.body.model, slow)


def _is_part_of(fast: nn.Module, slow: nn.Module) -> None:
    """Check every tensor that a model holds, as parameter, buffer or attribute, against another's of that name."""
    expected = _tensors(slow)
    found = _tensors(fast)
    assert found
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
        assert tensor.dtype == expected[name].dtype


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    found = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for prefix, module in model.named_modules():
        found |= {f"{prefix}.{k}": v for k, v in vars(module).items() if isinstance(v, torch.Tensor)}
    return found


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.table.mul_(2)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)


def test_nothing_is_initialized_that_is_loaded():
    state = _Net().state_dict()
    with SkipInit() as mode:
        net = _Net()
        assert not mode.is_loaded(net.linear.weight)
        net.load_state_dict(state)
    assert net.linear.weight.data_ptr() == state["linear.weight"].data_ptr()
    assert all(mode.is_loaded(p) for p in net.parameters())
    assert net.table.tolist() == [0, 2, 4, 6]  # what is no parameter is computed as ever
    assert all(p.requires_grad for p in net.parameters())


def test_what_is_not_loaded_is_initialized_by_its_own_code():
    state = {"scale": torch.full((4,), 3.0)}

    def create(loading):
        with loading:
            net = _Net()
            net.load_state_dict(state, strict=False)
        return Built(net, net, CheckpointRules())

    torch.manual_seed(5)
    net = build_loaded(create).module
    assert net.scale.tolist() == [3, 3, 3, 3]
    assert 0 < float(net.linear.weight.detach().abs().max()) < 0.2
    assert bool(net.linear.bias.isfinite().all())


def test_initialization_after_loading_is_not_taken_for_loaded():
    with SkipInit() as mode:
        net = _Net()
        net.load_state_dict(_Net().state_dict())
        nn.init.zeros_(net.linear.weight)
    assert not mode.is_loaded(net.linear.weight)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_modes(context, tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    with context():
        backbone = create_feature_backbone("test_resnet", weights=tmp_path / "w.safetensors")
        pooled = create_backbone("test_resnet", weights=tmp_path / "w.safetensors", num_classes=3)
    x = torch.rand(1, 3, 64, 64)
    sum(y.sum() for y in backbone(x)).backward()
    pooled(x).sum().backward()
    assert all(p.grad is not None for p in (*backbone.parameters(), *pooled.parameters()))


def test_on_the_meta_device_nothing_is_loaded():
    with torch.device("meta"):
        backbone = create_feature_backbone("resnet50")  # asks for published weights, and no network
        dinov3 = create_backbone("dinov3_vits16")
    assert all(p.is_meta for p in (*backbone.parameters(), *dinov3.parameters()))
    assert backbone.weights_report is None


def test_the_default_dtype(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    torch.set_default_dtype(torch.float64)
    try:
        backbone = create_feature_backbone("test_resnet", weights=tmp_path / "w.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in backbone.parameters()} == {torch.float64}
