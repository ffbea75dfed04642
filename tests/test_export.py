"""Export to ONNX, against onnxruntime."""

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
    export,
    export_onnx,
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


@pytest.mark.parametrize(
    ("backbone", "arguments", "error", "message"),
    [
        ("test_resnet", {"path": "model.pb"}, ConfigError, "name a file that ends in .onnx, in a folder that exists"),
        ("test_resnet", {"path": "nowhere/model.onnx"}, ConfigError, "in a folder that exists"),
        ("test_resnet", {"input_size": (0, 3)}, ConfigError, "input_size must be (height, width) in pixels"),
        ("inception_v3", {"input_size": 32}, InputSizeError, "32x32"),
        ("levit_128s", {"input_size": 256}, InputSizeError, "224x224"),
        ("test_resnet", {"path": "folder.onnx"}, ConfigError, "name a file that ends in .onnx"),
        ("test_resnet", {"path": None}, ConfigError, "path=None: name a file"),
        ("levit_128s", {"dynamic_size": True}, UnsupportedError, "takes 224x224 images only; leave it out"),
    ],
)
def test_what_cannot_be_exported_is_told(backbone, arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(error) as err:
        export_onnx(**({"backbone": make(backbone), "path": "model.onnx"} | arguments))
    assert message in str(err.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


def test_pooled_backbones_do_not_pad(tmp_path):
    with pytest.raises(InputSizeError, match="does not pad; give multiples of 16"):
        export_onnx(create_backbone("test_vit", pretrained=False), tmp_path / "model.onnx", (100, 96))
    with pytest.raises(UnsupportedError, match=r"does not compute in torch\.float64; call backbone\.float\(\) first"):
        export_onnx(make().double(), tmp_path / "model.onnx", 64)


def test_other_modules_and_no_weights(tmp_path):
    with pytest.raises(ConfigError, match="takes a backbone of this package, got Linear"):
        export_onnx(nn.Linear(2, 2), tmp_path / "model.onnx")
    with torch.device("meta"):
        backbone = make()
    with pytest.raises(WeightsError, match="on the meta device"):
        export_onnx(backbone, tmp_path / "model.onnx")


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_PACKAGES", ("onnx", "not_installed_here"))
    with pytest.raises(UnsupportedError, match=r"needs not_installed_here: pip install 'autobackbone\[onnx\]'"):
        export_onnx(make(), tmp_path / "model.onnx")


def test_what_torch_cannot_trace_leaves_nothing_behind(tmp_path, monkeypatch):
    backbone = make()
    forward = backbone.body.forward
    monkeypatch.setattr(backbone.body, "forward", lambda x: forward(x) if x.sum() > 0 else forward(-x))
    path = tmp_path / "model.onnx"
    path.write_text("what was there before")
    with pytest.raises(UnsupportedError, match="torch could not export 'test_resnet'") as err:
        export_onnx(backbone, path, 64)
    assert err.value.__cause__ is not None
    assert path.read_text() == "what was there before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_gives_something_else_is_not_written(tmp_path, monkeypatch):
    backbone = make()
    written = export._write

    def write(module, images, file, names, **options):
        written(module, images, file, names, **options)
        with torch.no_grad():
            next(module.parameters()).mul_(2)

    monkeypatch.setattr(export, "_write", write)
    with pytest.raises(UnsupportedError, match="onnxruntime gives something else than 'test_resnet' for 'c3'"):
        export_onnx(backbone, tmp_path / "model.onnx", 64)
    assert list(tmp_path.iterdir()) == []
