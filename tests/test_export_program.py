"""Archives of torch.export, against the backbone, and without this package."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autobackbone import (
    ConfigError,
    FeaturePyramid,
    UnsupportedError,
    create_backbone,
    create_feature_backbone,
    export_program,
    freeze_norms,
    get_input_spec,
)

# Before torch 2.13, the shape of a pooled map is computed with a branch on whether the size before it is odd.
PARITY_MATTERS = torch.__version__ < (2, 13)
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch's own, of load


def make(name="test_resnet", **arguments):
    return create_feature_backbone(name, pretrained=False, **arguments)


def check(found, expected):
    """Order of the names, shapes, dtypes and values."""
    assert list(found) == list(expected)
    for name, y in expected.items():
        torch.testing.assert_close(found[name], y)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("test_resnet", {}, marks=pytest.mark.skipif(PARITY_MATTERS, reason="refused before torch 2.13")),
        ("test_vit", {"pyramid": "simple", "pyramid_channels": 8, "out_strides": (16, 4, 8)}),
        ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 1}}),
    ],
)
def test_any_batch_and_any_size(name, arguments, tmp_path):
    backbone = make(name, **arguments)
    path = tmp_path / "model.pt2"
    export_program(backbone, path, (97, 130), dynamic_size=True)
    assert list(tmp_path.iterdir()) == [path]
    program = torch.export.load(path).module()
    backbone.eval()

    @settings(max_examples=6)
    @given(batch=st.integers(1, 3), height=st.integers(128, 220), width=st.integers(128, 220))
    def law(batch, height, width):
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            check(program(images), backbone.forward_dict(images))

    law()


ALONE = """
import sys
sys.modules.update(dict.fromkeys(("autobackbone", "timm", "torchvision", "transformers")))  # importing them fails
import torch
torch.set_num_threads(1)
for kind in ("levels", "pyramid", "pooled"):
    with torch.no_grad():
        torch.save(torch.export.load(f"{kind}.pt2").module()(torch.load(f"{kind}.images")), f"{kind}.outputs")
"""


def test_archives_run_without_this_package(tmp_path):
    backbones = {
        "levels": make("test_convnext", in_chans=1).bfloat16(),
        "pyramid": FeaturePyramid(make(out_strides=(16, 8)), 8, "p6p7"),
        "pooled": create_backbone("test_vit", pretrained=False, num_classes=5),
    }
    (tmp_path / "pooled.pt2").write_text("what was there before")
    expected = {}
    for kind, backbone in backbones.items():
        size = (96, 96) if kind == "pooled" else (65, 90)
        export_program(torch.compile(backbone), str(tmp_path / f"{kind}.pt2"), size)
        images = torch.rand(3, get_input_spec(backbone).in_chans, *size, dtype=next(backbone.parameters()).dtype)
        torch.save(images, tmp_path / f"{kind}.images")
        backbone.eval()
        with torch.no_grad():
            expected[kind] = backbone.forward_dict(images) if kind == "levels" else backbone(images)
    subprocess.run([sys.executable, "-W", "ignore", "-c", ALONE], cwd=tmp_path, check=True)
    found = {kind: torch.load(tmp_path / f"{kind}.outputs") for kind in backbones}
    check(found["levels"], expected["levels"])
    check(found["pyramid"], expected["pyramid"])
    torch.testing.assert_close(found["pooled"], expected["pooled"])
    assert (type(found["levels"]), list(found["pyramid"])) == (dict, ["p3", "p4", "p5", "p6"])


def test_another_size_than_the_exported_is_refused_when_it_runs(tmp_path):
    export_program(make(), tmp_path / "model.pt2", 64)
    with pytest.raises(AssertionError, match="== 64"):
        torch.export.load(tmp_path / "model.pt2").module()(torch.rand(1, 3, 64, 96))


@pytest.mark.parametrize("works", [True, False])
def test_the_backbone_and_the_generator_stay_as_they_are(works, tmp_path, monkeypatch):
    backbone = make().train()
    freeze_norms(backbone)
    backbone.body.model.layer1.eval()  # by hand
    backbone.set_grad_checkpointing()
    if not works:
        monkeypatch.setattr(torch.export, "load", lambda _: 1 / 0)
    modes = [module.training for module in backbone.modules()]
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.inference_mode():  # whatever mode the caller is in
        if works:
            export_program(backbone, tmp_path / "model.pt2", 64)
        else:
            with pytest.raises(UnsupportedError, match="does not run 'test_resnet' as exported: division by zero"):
                export_program(backbone, tmp_path / "model.pt2", 64)
    assert [module.training for module in backbone.modules()] == modes
    assert all(p.requires_grad == (name not in backbone.frozen) for name, p in backbone.body.named_parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    check(backbone.state_dict(), state)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"] * works


def test_a_size_that_the_architecture_cannot_leave(tmp_path, monkeypatch):
    backbone = make("test_convnext")
    forward = backbone.body.forward
    monkeypatch.setattr(backbone.body, "forward", lambda x: [y * (2 if x.shape[-1] % 64 else 1) for y in forward(x)])
    with pytest.raises(
        UnsupportedError, match=r"bound it to some sizes \(Guard failed: .*\); leave dynamic_size=False"
    ):
        export_program(backbone, tmp_path / "model.pt2", (97, 130), dynamic_size=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.pt2"
    path.write_text("what was there before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ConfigError, match=r"model\.pt2' cannot be written: .*File too large"):
            export_program(make(), path, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]
