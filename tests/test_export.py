"""Export to ONNX, against onnxruntime, and what both formats refuse."""

import onnxruntime
import pytest
import torch
from torch import nn

from autobackbone import (
    ConfigError,
    InputSizeError,
    UnsupportedError,
    WeightsError,
    create_backbone,
    create_feature_backbone,
    export_formats,
    export_onnx,
    export_program,
)


def make(name="test_resnet", **arguments):
    return create_feature_backbone(name, pretrained=False, **arguments)


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, {"images": x.numpy()})), strict=True))


@pytest.mark.parametrize(
    ("name", "arguments", "sizes"),
    [
        ("test_resnet", {}, [(97, 130), (64, 200)]),
        ("test_vit", {"pyramid": "simple", "pyramid_channels": 8, "out_strides": (4, 64)}, [(97, 130), (128, 96)]),
        pytest.param(
            "dinov3_vits16",
            {"extra_kwargs": {"num_hidden_layers": 1}},
            [(97, 130), (64, 200)],
            marks=pytest.mark.families,
        ),
    ],
)
def test_any_batch_and_any_size(name, arguments, sizes, tmp_path):
    backbone = make(name, **arguments).train()
    path = tmp_path / "model.onnx"
    export_onnx(backbone, path, (97, 130), dynamic_size=True)
    assert backbone.training
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    backbone.eval()
    for batch, size in enumerate(sizes, 1):
        x = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = backbone.forward_dict(x)
        found = run(path, x)
        assert list(found) == list(expected)
        for key, y in expected.items():
            torch.testing.assert_close(found[key], y, rtol=1e-3, atol=1e-3)


def test_pooled_backbones(tmp_path):
    model = create_backbone("test_convnext", pretrained=False, num_classes=5).eval()
    path = tmp_path / "model.onnx"
    path.write_text("what was there before")
    export_onnx(model, str(path), 96)
    x = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(run(path, x)["logits"], model(x), rtol=1e-3, atol=1e-3)


def test_a_size_that_the_architecture_cannot_leave(tmp_path, monkeypatch):
    backbone = make()
    forward = backbone.body.forward
    monkeypatch.setattr(backbone.body, "forward", lambda x: [y * (2 if x.shape[-1] % 32 else 1) for y in forward(x)])
    with pytest.raises(UnsupportedError, match="onnxruntime gives something else"):
        export_onnx(backbone, tmp_path / "model.onnx", (97, 130), dynamic_size=True)
    assert list(tmp_path.iterdir()) == []


both_formats = pytest.mark.parametrize(
    ("export", "suffix"),
    [pytest.param(export_onnx, ".onnx", id="onnx"), pytest.param(export_program, ".pt2", id="pt2")],
)


@both_formats
@pytest.mark.parametrize(
    ("backbone", "arguments", "error", "message"),
    [
        (
            "test_resnet",
            {"path": "model.pb"},
            ConfigError,
            "name a file that ends in {suffix}, in a folder that exists",
        ),
        ("test_resnet", {"path": "nowhere/model{suffix}"}, ConfigError, "in a folder that exists"),
        ("test_resnet", {"input_size": (0, 3)}, ConfigError, "input_size must be (height, width) in pixels"),
        ("inception_v3", {"input_size": 32}, InputSizeError, "32x32"),
        ("levit_128s", {"input_size": 256}, InputSizeError, "224x224"),
        ("test_resnet", {"path": "folder{suffix}"}, ConfigError, "name a file that ends in {suffix}"),
        ("test_resnet", {"path": None}, ConfigError, "path=None: name a file"),
        ("levit_128s", {"dynamic_size": True}, UnsupportedError, "takes 224x224 images only; leave it out"),
    ],
)
def test_what_cannot_be_exported_is_told(export, suffix, backbone, arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    path = arguments.get("path", "model{suffix}")
    arguments = arguments | {"path": path and path.format(suffix=suffix)}
    with pytest.raises(error) as err:
        export(make(backbone), **arguments)
    assert message.format(suffix=suffix) in str(err.value)
    assert list(tmp_path.iterdir()) == [folder]


@both_formats
def test_pooled_backbones_do_not_pad(export, suffix, tmp_path):
    with pytest.raises(InputSizeError, match="does not pad; give multiples of 16"):
        export(create_backbone("test_vit", pretrained=False), tmp_path / f"model{suffix}", (100, 96))


@pytest.mark.parametrize(
    ("export", "path", "dtype"),
    [(export_onnx, "model.onnx", torch.float64), (export_program, "model.pt2", torch.float8_e4m3fn)],
)
def test_dtypes_that_nothing_computes_in(export, path, dtype, tmp_path):
    with pytest.raises(UnsupportedError, match=rf"does not compute in {dtype}; call backbone\.float\(\) first"):
        export(make().to(dtype), tmp_path / path, 64)


@both_formats
def test_other_modules_and_no_weights(export, suffix, tmp_path):
    with pytest.raises(ConfigError, match=rf"{export.__name__}\(\) takes a backbone of this package, got Linear"):
        export(nn.Linear(2, 2), tmp_path / f"model{suffix}")
    with torch.device("meta"):
        backbone = make()
    with pytest.raises(WeightsError, match="on the meta device"):
        export(backbone, tmp_path / f"model{suffix}")


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(export_formats.OnnxFormat, "packages", ("onnx", "not_installed_here"))
    with pytest.raises(UnsupportedError, match=r"needs not_installed_here: pip install 'autobackbone\[onnx\]'"):
        export_onnx(make(), tmp_path / "model.onnx")


@both_formats
def test_what_torch_cannot_trace_leaves_nothing_behind(export, suffix, tmp_path, monkeypatch):
    backbone = make()
    forward = backbone.body.forward
    monkeypatch.setattr(backbone.body, "forward", lambda x: forward(x) if x.sum() > 0 else forward(-x))
    path = tmp_path / f"model{suffix}"
    path.write_text("what was there before")
    with pytest.raises(UnsupportedError, match="torch could not export 'test_resnet'") as err:
        export(backbone, path, 64)
    assert err.value.__cause__ is not None
    assert path.read_text() == "what was there before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("export", "file_format", "runner"),
    [
        (export_onnx, export_formats.OnnxFormat, "onnxruntime"),
        (export_program, export_formats.ProgramFormat, "The exported program"),
    ],
)
def test_a_file_that_gives_something_else_is_not_written(export, file_format, runner, tmp_path, monkeypatch):
    backbone = make()
    written = file_format.write
    path = tmp_path / f"model{file_format.suffix}"
    path.write_text("what was there before")

    def write(self, module, *arguments, **options):
        written(self, module, *arguments, **options)
        with torch.no_grad():
            next(module.parameters()).mul_(2)

    monkeypatch.setattr(file_format, "write", write)
    with pytest.raises(UnsupportedError, match=f"{runner} gives something else than 'test_resnet' for 'c3'"):
        export(backbone, path, 64)
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]
