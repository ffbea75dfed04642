"""Saved pyramids: what comes back is what was saved, backbone, FPN and all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    FeaturePyramid,
    WeightsCorruptedError,
    WeightsMismatchError,
    WeightsNotFoundError,
    create_feature_backbone,
    load_weights,
)
from autobackbone.weights import checkpoint

KINDS = {
    "CNN": ({"cfg": "test_resnet"}, {"out_channels": 8, "extra_blocks": "pool"}),
    "any order": ({"cfg": "test_resnet", "out_strides": (32, 4, 16)}, {"out_channels": 8, "extra_blocks": "p6p7"}),
    "made strides": ({"cfg": "test_resnet", "out_strides": (4, 64)}, {"out_channels": 8}),
    "ViT": ({"cfg": "test_vit", "out_strides": (8, 16)}, {"out_channels": 8}),
    "ViTDet": (
        {"cfg": "test_vit", "pyramid": "simple", "pyramid_channels": 16},
        {"extra_blocks": "pool"},
    ),
    "ViTDet with an FPN": ({"cfg": "test_vit", "pyramid": "simple", "pyramid_channels": 16}, {"extra_blocks": "p6p7"}),
    "DINOv3": (
        {"cfg": "dinov3_vits16", "extra_kwargs": {"num_hidden_layers": 1}, "in_chans": 5},
        {"out_channels": 8},
    ),
}


def make(kind="CNN"):
    backbone, fpn = KINDS[kind]
    made = create_feature_backbone(**backbone, pretrained=False)
    pyramid = FeaturePyramid.without_fpn(made, **fpn) if kind == "ViTDet" else FeaturePyramid(made, **fpn)
    return pyramid.eval()


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    fpn = make(kind)
    fpn.save_pretrained(tmp_path)
    again = FeaturePyramid.from_pretrained(tmp_path).eval()
    assert again.levels == fpn.levels
    assert again.names == fpn.names
    assert again.input_spec == fpn.input_spec
    assert same(again, fpn)
    report = again.weights_report
    assert report.loaded == report.total == sum(value.numel() for value in fpn.state_dict().values())
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    x = torch.rand(1, fpn.input_spec.in_chans, 97, 130)
    with torch.no_grad():
        for y, expected in zip(again(x).values(), fpn(x).values(), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_the_folder_is_the_backbones_as_well(tmp_path):
    fpn = make()
    fpn.save_pretrained(tmp_path / "mine")
    alone = FeatureBackbone.from_pretrained(tmp_path / "mine")
    assert same(alone, fpn.backbone)
    assert alone.config == fpn.backbone.config.replace(weights=tmp_path / "mine")
    other = make()
    assert load_weights(other, tmp_path / "mine").coverage == 1
    assert same(other, fpn)
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert 'FeaturePyramid.from_pretrained("mine")' in card
    assert "| p6 | 64 | 8 |" in card


def test_overrides(tmp_path):
    fpn = make()
    fpn.save_pretrained(tmp_path)
    again = FeaturePyramid.from_pretrained(tmp_path, drop_path_rate=0.1, img_size=96)
    assert again.backbone.config.drop_path_rate == 0.1
    assert again.input_spec.size == (96, 96)
    assert same(again, fpn)
    with pytest.raises(ConfigError, match=r"saved with strides \(8, 16, 32\) cannot be loaded with \(8, 32\)"):
        FeaturePyramid.from_pretrained(tmp_path, out_strides=(8, 32))
    with pytest.raises(ConfigError, match="no field 'out_stride'"):
        FeaturePyramid.from_pretrained(tmp_path, out_stride=8)


def test_weights_from_elsewhere(tmp_path):
    fpn, other = make(), make()
    fpn.save_pretrained(tmp_path / "saved")
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in other.state_dict().items()}}, tmp_path / "o.ckpt"
    )
    assert same(FeaturePyramid.from_pretrained(tmp_path / "saved", weights=tmp_path / "o.ckpt"), other)


def test_a_backbone_is_no_pyramid(tmp_path):
    make().backbone.save_pretrained(tmp_path)
    with pytest.raises(WeightsCorruptedError, match=r"without an FPN; load it with FeatureBackbone\.from_pretrained"):
        FeaturePyramid.from_pretrained(tmp_path)


def test_a_block_that_a_file_cannot_name(tmp_path):
    fpn = FeaturePyramid(make().backbone, 8, LastLevelMaxPool())
    with pytest.raises(ConfigError, match="a file cannot name the LastLevelMaxPool"):
        fpn.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_other_tensors_are_refused(tmp_path):
    fpn = make()
    fpn.fpn.more = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsMismatchError, match=r"2 more \(first 'fpn\.more\.weight'\)"):
        fpn.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("fpn.", "without those of the FPN"),
        ("fpn.inner_blocks.0.", "2 missing"),
        ("backbone.body.model.layer4.", r"missing \(first .layer4"),
    ],
)
def test_weights_that_lack_a_part(lost, message, tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if not key.startswith(lost)}, path)
    with pytest.raises(WeightsMismatchError, match=message):
        FeaturePyramid.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fpn",
    [
        5,
        [],
        {},
        {"out_channels": 8},
        {"out_channels": 8, "extra_blocks": None, "strides": 8},
        {"out_channels": "8", "extra_blocks": None, "strides": [8, 16, 32]},
        {"out_channels": 8, "extra_blocks": "p8", "strides": [8, 16, 32]},
        {"out_channels": 8, "extra_blocks": None, "strides": [8, 16, 32], "backbone": None},
    ],
)
def test_a_config_of_no_pyramid(fpn, tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"fpn": fpn}), encoding="utf-8")
    with pytest.raises(WeightsCorruptedError, match="is not that of a saved"):
        FeaturePyramid.from_pretrained(tmp_path)


def test_a_repository_that_is_none():
    with pytest.raises(WeightsNotFoundError, match="write 'owner/repo'"):
        make().push_to_hub("no repository")


class Necked(FeaturePyramid):
    """A subclass with a layer of its own."""

    def __init__(self, backbone, out_channels=256, extra_blocks=None):
        super().__init__(backbone, out_channels, extra_blocks)
        self.neck = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("has_fpn", [False, True])
def test_subclasses_are_made_by_their_own_code(has_fpn, tmp_path):
    backbone = make("ViTDet").backbone
    pyramid = Necked(backbone, 8) if has_fpn else Necked.without_fpn(backbone)
    assert isinstance(pyramid.neck, torch.nn.Linear)
    FeaturePyramid(backbone, 8).save_pretrained(tmp_path / "fpn")
    FeaturePyramid.without_fpn(backbone).save_pretrained(tmp_path / "plain")
    again = Necked.from_pretrained(tmp_path / ("fpn" if has_fpn else "plain"))
    assert isinstance(again.neck, torch.nn.Linear)


def test_weights_are_read_once(tmp_path, monkeypatch):
    make("ViTDet with an FPN").save_pretrained(tmp_path)
    reads = []
    read = checkpoint.read_checkpoint
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda *args: reads.append(args) or read(*args))
    assert FeaturePyramid.from_pretrained(tmp_path).weights_report.coverage == 1
    assert len(reads) == 1
