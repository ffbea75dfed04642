"""Backbones that are optimized for inference."""

import copy
import io

import pytest
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    FeaturePyramid,
    InputError,
    UnsupportedError,
    WeightsError,
    WeightsMismatchError,
    create_backbone,
    create_feature_backbone,
    export_onnx,
    export_program,
    load_weights,
    optimize_for_inference,
)
from autobackbone.linear import ConvLinear, use_convolutions


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create_feature_backbone("test_resnet", pretrained=False, out_strides=(4, 8, 16, 32)).eval()


@pytest.fixture(scope="module")
def fast(backbone):
    return optimize_for_inference(backbone)


@pytest.fixture
def convolutions_are_faster(monkeypatch):
    monkeypatch.setattr("autobackbone.linear.conv_is_faster", lambda: True)


def assert_close(maps, expected, tolerance=1e-4):
    for y, e in zip(maps, expected, strict=True):
        assert y.shape == e.shape
        torch.testing.assert_close(y.double(), e.double(), rtol=tolerance, atol=tolerance)


def test_the_contract_is_the_same(backbone, fast):
    assert isinstance(fast, FeatureBackbone)
    assert fast.levels == backbone.levels
    assert fast.input_spec == backbone.input_spec
    assert fast.config == backbone.config
    x = torch.randn(2, 3, 65, 131)
    assert_close(fast(x), backbone(x))
    assert fast.forward_dict(x).keys() == backbone.forward_dict(x).keys()


def test_the_given_one_is_left_as_it_was():
    backbone = create_feature_backbone("test_byobnet", pretrained=False).eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    random = torch.get_rng_state()
    fast = optimize_for_inference(backbone, dtype="bfloat16")
    assert torch.equal(torch.get_rng_state(), random)
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.requires_grad and p.is_contiguous() for p in backbone.parameters())
    assert backbone.inference is None
    shared = {t.data_ptr() for t in backbone.state_dict().values()} & {t.data_ptr() for t in fast.state_dict().values()}
    assert shared <= {0}
    backbone.train()


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_efficientnet", "test_byobnet", "regnetx_002", "mobilenetv3_small_050", "repghostnet_050"],
)
def test_every_norm_of_a_plain_network_is_folded(name):
    fast = optimize_for_inference(create_feature_backbone(name, pretrained=False).eval())
    assert not any(isinstance(module, _BatchNorm) for module in fast.modules())


@pytest.mark.parametrize("channels_last", [True, False])
def test_layout(backbone, channels_last):
    fast = optimize_for_inference(backbone, channels_last=channels_last)
    expected = torch.channels_last if channels_last else torch.contiguous_format
    assert all(p.is_contiguous(memory_format=expected) for p in fast.parameters() if p.ndim == 4)
    x = torch.randn(2, 3, 64, 64)
    assert all(y.is_contiguous(memory_format=expected) for y in fast(x))
    assert_close(fast(x.contiguous(memory_format=torch.channels_last)), backbone(x))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float32"])
def test_dtype(backbone, dtype):
    fast = optimize_for_inference(backbone, dtype=dtype)
    like = next(fast.parameters()).dtype
    assert str(like).endswith(str(dtype).removeprefix("torch."))
    assert all(y.dtype == like for y in fast(torch.randn(1, 3, 64, 64, dtype=like)))


def test_double_precision(backbone):
    double = copy.deepcopy(backbone).double()
    x = torch.randn(1, 3, 64, 64)
    assert_close(optimize_for_inference(double, dtype="float32")(x), double(x.double()))
    with pytest.raises(ConfigError, match="dtype='float64'"):
        optimize_for_inference(double)


def test_it_cannot_be_trained(fast):
    assert not any(p.requires_grad for p in fast.parameters())
    with pytest.raises(UnsupportedError, match="cannot be trained; train the one"):
        fast.train()
    assert not any(module.training for module in fast.modules())
    with pytest.raises(InputError, match="no gradients"):
        fast(torch.randn(1, 3, 64, 64, requires_grad=True))
    assert not any(y.requires_grad for y in fast(torch.randn(1, 3, 64, 64)))
    model = nn.Sequential(fast, nn.Identity())
    with pytest.raises(UnsupportedError):
        model.train()


@pytest.mark.parametrize(
    ("name", "arguments", "dtype"),
    [
        ("test_resnet", {"in_chans": 2}, None),
        ("test_vit", {"img_size": (64, 96)}, None),
        ("test_vit", {"pyramid": "simple", "out_strides": (4, 8, 16, 32)}, "bfloat16"),
        ("fastvit_t8", {}, "bfloat16"),
        ("swin_tiny_patch4_window7_224", {"out_indices": (0, 1)}, None),
        ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 2}}, "bfloat16"),
    ],
)
def test_saved_and_loaded(name, arguments, dtype, tmp_path):
    fast = optimize_for_inference(create_feature_backbone(name, pretrained=False, **arguments).eval(), dtype=dtype)
    fast.save_pretrained(tmp_path)
    loaded = FeatureBackbone.from_pretrained(tmp_path)
    assert loaded.inference == fast.inference
    assert loaded.weights_report.coverage == 1
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    values = loaded.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in fast.state_dict().items())
    x = torch.randn(1, fast.config.in_chans, *fast.input_spec.size, dtype=next(fast.parameters()).dtype)
    assert all(torch.equal(y, e) for y, e in zip(copy.deepcopy(loaded)(x), fast(x), strict=True))
    again = optimize_for_inference(loaded)
    assert all(torch.equal(y, e) for y, e in zip(again(x), fast(x), strict=True))


def test_a_pyramid_over_it_is_saved_and_loaded(fast, tmp_path):
    pyramid = FeaturePyramid(fast, out_channels=8).eval()
    pyramid.save_pretrained(tmp_path)
    loaded = FeaturePyramid.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    assert loaded.backbone.inference == fast.inference
    assert_close(loaded.eval()(x).values(), pyramid(x).values(), 1e-6)


def test_copies_and_pickles(fast):
    x = torch.randn(1, 3, 64, 64)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for twin in (copy.deepcopy(fast), torch.load(file, weights_only=False)):
        assert_close(twin(x), fast(x), 1e-6)


def test_other_weights_are_not_loaded_in_part(backbone, fast, tmp_path):
    twin = copy.deepcopy(fast)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    backbone.save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError):
        load_weights(twin, tmp_path)
    with pytest.raises(WeightsMismatchError, match="the backbone that it was made from"):
        load_weights(twin, tmp_path, strict=False)
    with pytest.raises(WeightsMismatchError):
        FeatureBackbone.from_pretrained(_saved(fast, tmp_path / "fast"), weights=str(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())


def _saved(backbone, folder):
    backbone.save_pretrained(folder)
    return folder


def test_own_weights_are_loaded(fast, tmp_path):
    twin = copy.deepcopy(fast)
    nn.init.zeros_(next(twin.parameters()))
    report = load_weights(twin, _saved(fast, tmp_path))
    assert report.coverage == 1
    x = torch.randn(1, 3, 64, 64)
    assert_close(twin(x), fast(x), 1e-6)


@pytest.mark.usefixtures("convolutions_are_faster")
def test_exported_to_onnx(tmp_path):
    for name in ("test_resnet", "test_vit"):
        fast = optimize_for_inference(create_feature_backbone(name, pretrained=False).eval())
        export_onnx(fast, tmp_path / f"{name}.onnx")  # compares


def test_compiled(backbone, tmp_path):
    fast = optimize_for_inference(backbone, compile=True)
    x = torch.randn(2, 3, *backbone.input_spec.size)
    assert_close(fast(x), backbone(x), 1e-3)
    assert fast.compiled is not None
    assert fast.state_dict().keys() == optimize_for_inference(backbone).state_dict().keys()
    assert copy.deepcopy(fast).compiled is None
    export_program(fast, tmp_path / "fast.pt2")  # compares
    with pytest.raises(InputError):
        fast(torch.randn(2, 4, 64, 64))
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.mul_(1.5)
    twin = copy.deepcopy(fast)
    assert_close(fast(x), twin(x))


@torch._dynamo.config.patch(recompile_limit=2)
def test_shapes_for_which_torch_gives_up_are_computed_all_the_same(backbone, caplog):
    torch.compiler.reset()
    fast = optimize_for_inference(backbone, compile=True)
    for size in (64, 96, 128, 96, 128):
        x = torch.randn(1, 3, size, 64)
        assert_close(fast(x), backbone(x), 1e-3)
    messages = [record.getMessage() for record in caplog.records if record.name == "autobackbone"]
    assert [text.partition(": computed without being compiled (")[0] for text in messages] == [
        "Images (1, 3, 96, 64)",
        "Images (1, 3, 128, 64)",
    ]


def test_what_breaks_the_graph_is_told():
    backbone = create_feature_backbone("test_resnet", pretrained=False).eval()

    def breaks(_module, args):
        print(args[0].flatten()[0].item())  # noqa: T201 - what torch cannot compile

    backbone.network.layer1.register_forward_pre_hook(breaks)
    with pytest.raises(UnsupportedError, match=r"'test_resnet' cannot be compiled in torch\.float32 on cpu: "):
        optimize_for_inference(backbone, compile=True)


def test_parts_of_the_users_own_that_change_the_maps_are_told():
    backbone = create_feature_backbone("test_resnet", pretrained=False).eval()
    backbone.network.conv1 = nn.Sequential(backbone.network.conv1, nn.Dropout(0.0)).eval()
    assert_close(optimize_for_inference(backbone)(x := torch.randn(1, 3, 64, 64)), backbone(x))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: create_feature_backbone("test_resnet", pretrained=False), ConfigError, "training mode; call eval"),
        (lambda: create_backbone("test_resnet", pretrained=False), ConfigError, "create_feature_backbone"),
        (lambda: nn.Linear(3, 3), ConfigError, "got Linear"),
        (lambda: "test_resnet", ConfigError, "got str"),
        (lambda: _on_meta().eval(), WeightsError, "on the meta device has no weights"),
        (lambda: _pyramid().eval(), ConfigError, r"model.backbone = optimize_for_inference\("),
        (lambda: _parametrized().eval(), UnsupportedError, "parametrized weights"),
    ],
)
def test_what_cannot_be_optimized(make, error, text):
    with pytest.raises(error, match=text):
        optimize_for_inference(make())


@pytest.mark.parametrize("dtype", ["int8", torch.float64, torch.int32, 5, "bf16"])
def test_other_dtypes(backbone, dtype):
    with pytest.raises(ConfigError, match="dtype="):
        optimize_for_inference(backbone, dtype=dtype)


def test_maps_that_would_differ_are_told(backbone, monkeypatch):
    monkeypatch.setattr(
        "autobackbone.inference_form.fold", lambda network, _folds: nn.init.zeros_(network.conv1[0].weight)
    )
    twin = copy.deepcopy(backbone)
    with pytest.raises(
        UnsupportedError, match=r"'test_resnet' optimized in torch\.float32 computes something else: level"
    ):
        optimize_for_inference(twin)


def test_what_cannot_be_traced_is_told():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = torch.ones(1, 1, 1, 2)  # neither a parameter nor a buffer

        def forward(self, x):
            return x + self.offset.repeat(1, 1, 1, x.shape[-1] // 2)

    backbone = create_feature_backbone("test_resnet", pretrained=False).eval()
    backbone.network.layer1 = nn.Sequential(Constant(), backbone.network.layer1).eval()
    with pytest.raises(UnsupportedError, match="cannot be traced on the meta device"):
        optimize_for_inference(backbone)


def test_branches_that_were_joined_before_are_told():
    backbone = create_feature_backbone("fastvit_t8", pretrained=False).eval()
    reparameterize_model(backbone.network, inplace=True)
    with pytest.raises(UnsupportedError, match="timm's FastVit cannot join its branches"):
        optimize_for_inference(backbone)


def _on_meta():
    with torch.device("meta"):
        return create_feature_backbone("test_resnet", pretrained=False)


def _pyramid():
    return FeaturePyramid(create_feature_backbone("test_resnet", pretrained=False), out_channels=8)


def _parametrized():
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    nn.utils.parametrizations.weight_norm(backbone.network.conv1[0])
    return backbone


@pytest.mark.parametrize("shape", [(4,), (3, 4), (16, 4), (2, 16, 4), (2, 3, 5, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("convolutions_are_faster")
def test_linear_layers_as_convolutions(shape, bias):
    layer = nn.Linear(4, 6, bias=bias)
    x = torch.randn(shape)
    expected = layer(x)
    use_convolutions(model := nn.Sequential(layer))
    assert isinstance(layer, ConvLinear)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.bfloat16()(x.bfloat16()), expected.bfloat16(), atol=0.05, rtol=0.05)
    wider = model.float()(x[..., None, :].expand(*x.shape[:-1], 2, 4))  # neither contiguous
    torch.testing.assert_close(wider[..., 0, :], model(x))
