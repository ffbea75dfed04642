"""Quantized backbones, against torchao and onnxruntime on the same weights."""

import copy
import io
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autobackbone import (
    BackboneError,
    ConfigError,
    FeatureBackbone,
    FeaturePyramid,
    InputError,
    InputSizeError,
    UnsupportedError,
    WeightsError,
    WeightsMismatchError,
    create_backbone,
    create_feature_backbone,
    export_onnx,
    export_program,
    extract_features,
    load_weights,
    open_features,
    optimize_for_inference,
    quantize,
)
from autobackbone.extraction.remake import remake
from autobackbone.quantized_linear import SCHEMES, QuantizedLinear

ONNX_SCHEMES = ("int8_static", "int8_dynamic")
CONFIGS = {"int8_weight_only": "Int8WeightOnlyConfig", "int8_dynamic": "Int8DynamicActivationInt8WeightConfig"}


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create_feature_backbone("test_vit", pretrained=False, out_strides=(8, 16)).eval()


@pytest.fixture(scope="module", params=SCHEMES)
def small(request, backbone):
    return quantize(backbone, request.param)


def images(backbone, count=2):
    return torch.randn(count, backbone.config.in_chans, *backbone.input_spec.size)


def state_of(backbone):
    return {name: value.clone() for name, value in backbone.state_dict().items()}


def assert_same(maps, expected):
    for y, e in zip(maps, expected, strict=True):
        assert y.dtype == e.dtype
        assert torch.equal(y, e)


def cosine(y, expected):
    """Return the mean over images, by another way than the package's."""
    pairs = zip(y.double().flatten(1), expected.double().flatten(1), strict=True)
    return float(torch.stack([(a @ b) / (a.norm() * b.norm()) for a, b in pairs]).mean())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_maps_are_those_of_torchao(scheme, dtype, backbone):
    fast = optimize_for_inference(backbone, dtype=dtype)
    small = quantize(fast, scheme)
    raw = copy.deepcopy(fast)
    for part in raw.modules():
        if isinstance(part, nn.Linear):
            part.__class__ = nn.Linear
    from torchao import quantization

    quantization.quantize_(raw, getattr(quantization, CONFIGS[scheme])(version=2))
    x = images(backbone).to(next(fast.parameters()).dtype)
    assert_same(small(x), raw(x))


def test_the_contract_is_the_same(backbone, small):
    assert isinstance(small, FeatureBackbone)
    assert (small.levels, small.input_spec, small.config) == (backbone.levels, backbone.input_spec, backbone.config)
    x = torch.randn(2, 3, 65, 131)
    with torch.no_grad():
        expected = backbone(x)
    for y, e in zip(small(x), expected, strict=True):
        assert y.shape == e.shape
        assert cosine(y, e) > 0.999
    assert not any(p.requires_grad for p in small.parameters())
    assert not any(y.requires_grad for y in small(x))
    with pytest.raises(UnsupportedError, match="cannot be trained"):
        small.train()
    with pytest.raises(InputError, match="no gradients"):
        small(x.requires_grad_())


def test_every_linear_layer_is_quantized(backbone, small):
    before = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    after = [name for name, part in small.named_modules() if isinstance(part, QuantizedLinear)]
    assert before == after
    for name in before:
        weight, now = backbone.get_submodule(name).weight, small.get_submodule(name).weight
        assert now.shape == weight.shape
        step = weight.abs().amax(1, keepdim=True) / 127
        assert bool(((now - weight).abs() <= 0.51 * step).all())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_report(scheme, backbone):
    batches = [images(backbone, 3), images(backbone, 1)]
    small = quantize(backbone, scheme, iter(batches))
    report = small.quantization_report
    x = torch.cat(batches)
    with torch.no_grad():
        maps = backbone(x)
    expected = {n: cosine(y, e) for (n, y), e in zip(small.forward_dict(x).items(), maps, strict=True)}
    assert report.similarity == pytest.approx(expected, abs=1e-6)
    assert expected[report.worst_level] == min(expected.values())
    assert (report.scheme, report.images) == (scheme, 4)
    for size, model in ((report.bytes_before, backbone), (report.bytes_after, small)):
        content = io.BytesIO()
        torch.save(model.state_dict(), content)
        assert 0 <= len(content.getvalue()) - size < 100_000  # names and headers
    assert report.bytes_after < report.bytes_before / 2


def test_the_given_one_is_left_as_it_was(backbone):
    before, random = state_of(backbone), torch.get_rng_state()
    quantize(backbone, "int8_dynamic")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(p.requires_grad for p in backbone.parameters())
    assert backbone.inference is backbone.quantization_report is None


@pytest.mark.parametrize(
    ("name", "arguments", "dtype"),
    [
        ("test_vit", {"img_size": (64, 96), "in_chans": 2}, "float32"),
        ("test_vit", {"pyramid": "simple", "out_strides": (4, 8, 16, 32)}, "bfloat16"),
        ("test_convnext", {}, "float32"),
        ("fastvit_sa12", {"out_indices": (0, 3)}, "float32"),  # joined, folded and quantized
        ("swin_tiny_patch4_window7_224", {"out_indices": (0, 1)}, "float32"),
        ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 2}}, "bfloat16"),
    ],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_saved_and_loaded(name, arguments, dtype, scheme, tmp_path):
    fast = optimize_for_inference(create_feature_backbone(name, pretrained=False, **arguments).eval(), dtype=dtype)
    small = quantize(fast, scheme)
    small.save_pretrained(tmp_path)
    loaded = FeatureBackbone.from_pretrained(tmp_path)
    assert loaded.inference == small.inference
    assert loaded.inference.quantization == scheme
    assert loaded.weights_report.coverage == 1
    assert not loaded.training
    values = loaded.state_dict()
    assert values.keys() == small.state_dict().keys()
    assert_same(values.values(), (small.state_dict()[key] for key in values))
    x = images(small).to(next(small.parameters()).dtype)
    assert_same(loaded(x), small(x))


def test_copies_and_pickles(small):
    x = images(small)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    for twin in (copy.deepcopy(small), torch.load(file, weights_only=False)):
        assert_same(twin(x), small(x))
        assert twin.quantization_report == small.quantization_report


def test_a_pyramid_over_it_is_saved_and_loaded(small, tmp_path):
    pyramid = FeaturePyramid(small, out_channels=8).eval()
    pyramid.save_pretrained(tmp_path)
    loaded = FeaturePyramid.from_pretrained(tmp_path).eval()
    x = images(small)
    assert loaded.backbone.inference == small.inference
    assert_same(loaded(x).values(), pyramid(x).values())


def test_weights_that_are_not_quantized_are_not_loaded(backbone, small, tmp_path):
    twin, before = copy.deepcopy(small), state_of(small)
    backbone.save_pretrained(tmp_path)
    for strict in (True, False):
        with pytest.raises(WeightsMismatchError):
            load_weights(twin, tmp_path, strict=strict)
    small.save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError, match="quantized"):
        load_weights(copy.deepcopy(backbone), tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    assert load_weights(twin, tmp_path).coverage == 1


def test_exported_to_an_archive_that_needs_torchao_alone(backbone, tmp_path):
    small, path = quantize(backbone, "int8_dynamic"), tmp_path / "small.pt2"
    export_program(small, path)
    x = images(backbone)
    torch.save([x, small.forward_dict(x)], tmp_path / "maps.pt")
    code = f"""
import sys, torch, torchao
sys.modules.update(dict.fromkeys(("autobackbone", "timm")))
x, expected = torch.load({str(tmp_path / "maps.pt")!r})
maps = torch.export.load({str(path)!r}).module()(x)
assert all(torch.allclose(maps[name], y, rtol=1e-3, atol=1e-3) for name, y in expected.items())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_features_are_remade_with_it(photo, tmp_path):
    torch.manual_seed(0)
    twin = create_feature_backbone("test_vit", pretrained=False, out_strides=(8, 16)).eval()
    small = quantize(optimize_for_inference(twin, dtype="bfloat16"), "int8_weight_only")
    extract_features(small, [str(photo)], tmp_path / "out")
    table = open_features(tmp_path / "out")
    assert table.metadata["inference"]["quantization"] == "int8_weight_only"
    found = remake(table.metadata)(photo.read_bytes())
    assert_same([found["c4_mean"]], [table.row(table.ids[0])["c4_mean"]])


def _on_meta():
    with torch.device("meta"):
        return create_feature_backbone("test_vit", pretrained=False).eval()


def _parametrized(backbone):
    twin = copy.deepcopy(backbone)
    nn.utils.parametrizations.weight_norm(twin.network.blocks[0].attn.qkv)
    return twin


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda b: copy.deepcopy(b).train(), ConfigError, "training mode; call eval"),
        (lambda _: create_backbone("test_vit", pretrained=False), ConfigError, "create_feature_backbone"),
        (lambda _: "test_vit", ConfigError, "got str"),
        (lambda b: FeaturePyramid(b, out_channels=8).eval(), ConfigError, r"model.backbone = quantize\("),
        (lambda _: _on_meta(), WeightsError, "on the meta device has no weights"),
        (lambda b: quantize(b, "int8_dynamic"), UnsupportedError, r"is quantized \(int8_dynamic\)"),
        (_parametrized, UnsupportedError, "parametrized weights"),
        (lambda _: create_feature_backbone("test_resnet", pretrained=False).eval(), UnsupportedError, "int8_static"),
        (lambda b: copy.deepcopy(b).double(), ConfigError, "dtype='float64'"),
    ],
)
def test_what_cannot_be_quantized(make, error, text, backbone):
    given_one = make(backbone)
    parts = dict(given_one.named_modules()) if isinstance(given_one, nn.Module) else {}
    modes, tensors = (
        {n: p.training for n, p in parts.items()},
        {n: list(p.parameters(recurse=False)) for n, p in parts.items()},
    )
    with pytest.raises(error, match=text):
        quantize(given_one, "int8_weight_only")
    assert modes == {n: p.training for n, p in parts.items()}
    assert all(
        one is two for n, p in parts.items() for one, two in zip(p.parameters(recurse=False), tensors[n], strict=True)
    )


def test_a_quantized_one_is_not_optimized_or_quantized_in_a_file(small, tmp_path):
    with pytest.raises(UnsupportedError, match=r"optimize_for_inference\(\) takes the one it was made from"):
        optimize_for_inference(small)
    with pytest.raises(UnsupportedError, match="export the one that it was made from"):
        export_onnx(small, tmp_path / "small.onnx")


@pytest.mark.parametrize(
    ("scheme", "message"),
    [("int8_dynamc", "did you mean 'int8_dynamic'"), ("fp4", "it is one of"), (None, "scheme=None"), (8, "scheme=8")],
)
def test_other_schemes(scheme, message, backbone, tmp_path):
    with pytest.raises(ConfigError, match=message):
        quantize(backbone, scheme)
    if scheme is not None:
        with pytest.raises(ConfigError, match=message.replace("scheme=", "quantize=")):
            export_onnx(backbone, tmp_path / "x.onnx", quantize=scheme, calibration=[images(backbone)])
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra(backbone, monkeypatch):
    monkeypatch.setattr("autobackbone.quantized_linear.find_spec", lambda _name: None)
    with pytest.raises(UnsupportedError, match=r"needs torchao: pip install 'autobackbone\[quantize\]'"):
        quantize(backbone, "int8_dynamic")


@pytest.mark.parametrize("floor", [1.5, -2, float("nan"), "high", True])
def test_other_floors(floor, backbone):
    with pytest.raises(ConfigError, match="min_similarity="):
        quantize(backbone, "int8_dynamic", min_similarity=floor)


def test_maps_that_change_too_much_are_refused(backbone):
    with pytest.raises(
        UnsupportedError, match=r"'test_vit' in int8_dynamic .* level 'c3' .* less than min_similarity=1\."
    ):
        quantize(backbone, "int8_dynamic", min_similarity=1.0)


GOOD = torch.zeros(2, 3, 160, 160)


def _with(value):
    batch = GOOD.clone()
    batch[1, 2, 3, 4] = value
    return batch


no_iterables = st.one_of(st.none(), st.integers(), st.text(), st.just(GOOD), st.dictionaries(st.text(), st.integers()))
no_tensors = st.one_of(st.none(), st.integers(), st.text(), st.just(GOOD.numpy()), st.just((GOOD, torch.zeros(2))))
bad_shapes = st.lists(st.sampled_from([0, 1, 2, 3, 160]), max_size=5).filter(lambda s: len(s) != 4 or s[1] != 3)
bad_batches = st.one_of(
    bad_shapes.map(torch.zeros),
    st.sampled_from([torch.float16, torch.float64, torch.uint8, torch.int64, torch.bool]).map(GOOD.to),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]).map(_with),
    st.just(GOOD[:0]),
    st.just(GOOD[..., :0]),
    st.just(GOOD.to("meta")),
)


@settings(max_examples=40)
@given(st.data())
def test_calibration_that_is_none(backbone, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("calibration")
    kind = data.draw(st.sampled_from(["no iterable", "empty", "no tensor", "bad batch"]))
    if kind == "no iterable":
        calibration = data.draw(no_iterables)
    elif kind == "empty":
        calibration = data.draw(st.sampled_from([[], (), iter([])]))
    else:
        bad = data.draw(no_tensors if kind == "no tensor" else bad_batches)
        calibration = [*data.draw(st.lists(st.just(GOOD), max_size=2)), bad]
    before, expected = state_of(backbone), InputError if kind == "bad batch" else ConfigError
    calls = [lambda: export_onnx(backbone, folder / "x.onnx", quantize="int8_static", calibration=calibration)]
    if calibration is not None:
        calls.append(lambda: quantize(backbone, "int8_dynamic", calibration))
    for call in calls:
        with pytest.raises(expected, match="calibration") as err:
            call()
        assert isinstance(err.value, BackboneError)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert list(folder.iterdir()) == []


def test_calibration_without_an_end(backbone):
    def loader():
        while True:
            yield torch.zeros(500, 3, 16, 16)

    with pytest.raises(ConfigError, match=r"more than 4,096 images; a few hundred do"):
        quantize(backbone, "int8_dynamic", loader())


def test_what_an_iterable_raises_is_its_own(backbone):
    def loader():
        yield GOOD
        yield {}["broken"]

    with pytest.raises(KeyError, match="broken"):
        quantize(backbone, "int8_dynamic", loader())


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, {"images": x.numpy()})), strict=True))


@pytest.mark.parametrize(
    ("name", "scheme", "codes"),
    [("test_resnet", "int8_static", "QuantizeLinear"), ("test_vit", "int8_dynamic", "DynamicQuantizeLinear")],
)
def test_quantized_files(name, scheme, codes, tmp_path, capfd):
    model = create_feature_backbone(name, pretrained=False).eval()
    before, path = state_of(model), tmp_path / "model.onnx"
    export_onnx(model, path, 64)
    size = path.stat().st_size
    batches = [torch.randn(2, 3, 64, 64), torch.randn(1, 3, 64, 64)]
    report = export_onnx(model, path, 64, quantize=scheme, calibration=(batch for batch in batches))
    assert capfd.readouterr().err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert codes in {node.op_type for node in onnx.load(path).graph.node}
    assert (report.scheme, report.images) == (scheme, 3)
    assert (report.bytes_before, report.bytes_after) == (size, path.stat().st_size)
    assert report.bytes_after < size / 2
    sums = dict.fromkeys(report.similarity, 0.0)
    for x in batches:
        with torch.no_grad():
            expected = model.forward_dict(x)
        for level, y in run(path, x).items():
            sums[level] += cosine(y, expected[level]) * len(x) / 3
    assert report.similarity == pytest.approx(sums, abs=1e-6)
    assert min(sums.values()) > 0.99
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_quantized_files_of_any_size_and_of_pooled_backbones(tmp_path):
    model = create_backbone("test_resnet", pretrained=False, num_classes=5).eval()
    path = tmp_path / "model.onnx"
    batches = [torch.randn(1, 3, 96, 96), torch.randn(2, 3, 64, 128)]
    report = export_onnx(model, path, 96, dynamic_size=True, quantize="int8_static", calibration=batches)
    assert report.similarity.keys() == {"logits"}
    x = torch.randn(3, 3, 128, 96)
    with torch.no_grad():
        assert cosine(run(path, x)["logits"], model(x)) > 0.99


def test_norms_are_folded_before_the_file_is_quantized(tmp_path):
    model = create_feature_backbone("test_resnet", pretrained=False).eval()
    export_onnx(model, tmp_path / "x.onnx", 64, quantize="int8_static", calibration=[torch.randn(1, 3, 64, 64)])
    kinds = {node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"quantize": "int8_static"}, ConfigError, "needs images to compare on"),
        ({"calibration": [GOOD]}, ConfigError, "is for quantized files; name a scheme"),
        ({"quantize": "int8_static", "calibration": [torch.zeros(1, 3, 96, 96)]}, InputSizeError, "96x96 pixels"),
        ({"quantize": "int8_static", "calibration": [GOOD[..., :64, :64]], "min_similarity": 2}, ConfigError, "cosine"),
        ({"quantize": "int8_dynamic", "calibration": [GOOD[..., :64, :64]]}, UnsupportedError, "try 'int8_static'"),
        (
            {"quantize": "int8_static", "calibration": [torch.rand(1, 3, 64, 64)], "min_similarity": 1.0},
            UnsupportedError,
            r"level 'c3' have a cosine similarity of 0\.9\d+ .* Nothing was written",
        ),
    ],
)
def test_files_that_are_not_quantized(arguments, error, message, tmp_path):
    model = create_feature_backbone("test_resnet", pretrained=False).eval()
    path = tmp_path / "model.onnx"
    path.write_text("what was there before")
    with pytest.raises(error, match=message):
        export_onnx(model, path, 64, **arguments)
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_other_dtypes(tmp_path):
    model = create_feature_backbone("test_resnet", pretrained=False).eval().half()
    with pytest.raises(UnsupportedError, match=r"is in torch\.float16; call backbone\.float"):
        export_onnx(model, tmp_path / "x.onnx", 64, quantize="int8_static", calibration=[GOOD.half()])
