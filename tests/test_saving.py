"""Saved backbones: what comes back is what was saved."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    create_feature_backbone,
    get_input_spec,
)

X = torch.rand(1, 3, 97, 130, generator=torch.Generator().manual_seed(0))
SWIN = "swin_tiny_patch4_window7_224"
KINDS = {
    "CNN": {"model_name": "test_resnet"},
    "CNN, by index": {"model_name": "test_resnet", "out_indices": (3, 0)},
    "CNN, made strides": {"model_name": "test_resnet", "out_strides": (64, 4, 1)},
    "CNN, other channels": {"model_name": "test_convnext", "in_chans": 5, "norm": None},
    "CNN, dilated": {"model_name": "resnet18", "output_stride": 8},
    "NHWC": {"model_name": SWIN, "out_strides": (4, 8)},
    "ViT": {"model_name": "test_vit", "out_indices": (-1,)},
    "ViT, pyramid and norm": {"model_name": "test_vit", "norm": True},
    "ViT, built for a size": {"model_name": "deit_tiny_patch16_224", "img_size": (97, 130), "out_indices": (1,)},
    "shared parameters": {"model_name": "coat_tiny", "img_size": (97, 130)},
    "a fixed size": {"model_name": "test_coatnet", "img_size": (97, 130)},
    "unused branches": {"model_name": "hrnet_w18_small", "out_indices": (1,)},
    "DINOv3 ViT": {"model_name": "dinov3_vits16", "extra_kwargs": {"num_hidden_layers": 4}},
    "DINOv3 ViT, by index": {"model_name": "dinov3_vits16", "out_indices": (1,), "norm": False},
    "DINOv3 ConvNeXt": {"model_name": "dinov3_convnext_tiny", "extra_kwargs": {"depths": [1, 1, 1, 1]}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    fields = KINDS[kind]
    backbone = create_feature_backbone(fields["model_name"], **(fields | {"pretrained": False})).eval()
    backbone.save_pretrained(tmp_path / "saved")
    again = FeatureBackbone.from_pretrained(tmp_path / "saved").eval()
    assert again.levels == backbone.levels
    assert again.input_spec == backbone.input_spec
    assert again.config == backbone.config.replace(weights=tmp_path / "saved")
    assert again.weights_report.coverage == 1
    state = again.state_dict()
    assert state.keys() == backbone.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in backbone.state_dict().items())
    x = X if fields.get("in_chans", 3) == 3 else torch.rand(1, 5, 97, 130)
    with torch.no_grad():
        for y, e in zip(again(x), backbone(x), strict=True):
            torch.testing.assert_close(y, e, rtol=1e-5, atol=1e-5)
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert [n for n, p in again.named_parameters() if not p.requires_grad] == frozen


def test_what_is_in_the_folder(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False, out_strides=(4, 32))
    backbone.save_pretrained(tmp_path / "my-backbone")
    names = {p.name for p in (tmp_path / "my-backbone").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    values = json.loads((tmp_path / "my-backbone" / "config.json").read_text())
    assert values["versions"]["timm"] == timm.__version__
    assert torch.__version__.startswith(values["versions"]["torch"])
    assert {"autobackbone", "transformers"} <= set(values["versions"])
    assert [level["stride"] for level in values["levels"]] == [4, 32]
    assert load_file(tmp_path / "my-backbone" / "model.safetensors").keys() == backbone.state_dict().keys()
    card = (tmp_path / "my-backbone" / "README.md").read_text()
    assert "library_name: autobackbone" in card
    assert "| c5 | 32 | 96 | `layer4` |" in card
    assert "license: apache-2.0" in card
    assert 'FeatureBackbone.from_pretrained("my-backbone")' in card


def test_other_levels_of_what_was_saved(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False, out_indices=(1, 3)).eval()
    backbone.save_pretrained(tmp_path)
    other = FeatureBackbone.from_pretrained(tmp_path, out_strides=(2, 8)).eval()
    assert other.strides == (2, 8)
    assert torch.equal(other.body.model.layer1[0].conv1.weight, backbone.body.model.layer1[0].conv1.weight)
    assert other.weights_report.unexpected == ()
    with pytest.raises(WeightsMismatchError, match=r"missing \(first 'layer4"):
        FeatureBackbone.from_pretrained(tmp_path, out_indices=(4,))
    with pytest.raises(ConfigError, match="no field 'out_index'"):
        FeatureBackbone.from_pretrained(tmp_path, out_index=3)


def test_saving_to_where_it_came_from(tmp_path):
    """The file that the parameters are mapped from is replaced, not written over."""
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(tmp_path)
    backbone = FeatureBackbone.from_pretrained(tmp_path)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with torch.no_grad():
        backbone.body.model.conv1[0].weight.zero_()
    backbone.save_pretrained(tmp_path)
    again = FeatureBackbone.from_pretrained(tmp_path).state_dict()
    changed = [k for k, v in before.items() if not torch.equal(again[k], v)]
    assert changed == ["body.model.conv1.0.weight"]


def test_a_folder_of_timms(tmp_path):
    """What is saved does not need the folder that it was made from."""
    model = timm.create_model("test_vit", num_classes=5, img_size=192)
    cfg = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    timm.models.save_for_hf(model, tmp_path / "timm", model_config={"pretrained_cfg": cfg}, safe_serialization=True)
    backbone = create_feature_backbone(f"local-dir:{tmp_path / 'timm'}", out_indices=(1,))
    assert backbone.input_spec.mean == (0.1, 0.2, 0.3)
    backbone.save_pretrained(tmp_path / "saved")
    (tmp_path / "timm").rename(tmp_path / "elsewhere")
    again = FeatureBackbone.from_pretrained(tmp_path / "saved")
    assert again.input_spec == backbone.input_spec
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), backbone.parameters(), strict=True))


def test_what_is_no_saved_backbone(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"holds no config.json: no backbone was saved to it"):
        FeatureBackbone.from_pretrained(tmp_path)
    with pytest.raises(WeightsNotFoundError, match=r"is neither a folder, from .*, nor a repository 'owner/repo'"):
        FeatureBackbone.from_pretrained(tmp_path / "absent")
    for text in ("not json", "[]", '{"architecture": "resnet50"}', '{"backbone": {"model": "x"}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(WeightsCorruptedError, match="is not that of a saved backbone"):
            FeatureBackbone.from_pretrained(tmp_path)
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsNotFoundError, match="holds no weights"):
        FeatureBackbone.from_pretrained(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatchError):
        FeatureBackbone.from_pretrained(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    with pytest.raises(WeightsError, match="could not be saved to"):
        backbone.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""
    odd = create_feature_backbone("test_resnet", pretrained=False, extra_kwargs={"norm_layer": torch.nn.BatchNorm2d})
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        odd.save_pretrained(tmp_path / "odd")


def test_what_images_it_takes_is_saved_too(tmp_path):
    backbone = create_feature_backbone("dinov3_vits16", pretrained=False, out_indices=(0,))
    backbone.input_spec = replace(backbone.input_spec, mean=(0.1, 0.2, 0.3), size=(256, 192), interpolation="bicubic")
    backbone.save_pretrained(tmp_path)
    assert FeatureBackbone.from_pretrained(tmp_path).input_spec == backbone.input_spec
    assert len(FeatureBackbone.from_pretrained(tmp_path, in_chans=4).input_spec.mean) == 4
    card = (tmp_path / "README.md").read_text()
    assert "license: other\nlicense_name: dinov3-license" in card


IMAGES = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "lanczos", "crop_pct": 0.5}


def saved_with_images(folder, name="test_vit", **fields):
    backbone = create_feature_backbone(name, pretrained=False, **fields)
    backbone.input_spec = replace(backbone.input_spec, crop_mode="border", **IMAGES)
    backbone.save_pretrained(folder)
    return backbone.input_spec


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({}, {}),
        ({"img_size": (96, 64)}, {"size": (96, 64)}),
        ({"in_chans": 3}, {}),
        ({"in_chans": 5}, {"in_chans": 5, "mean": (0.1, 0.2, 0.3, 0.1, 0.2), "std": (0.4, 0.5, 0.6, 0.4, 0.5)}),
        ({"in_chans": 1}, {"in_chans": 1, "mean": (pytest.approx(0.2),), "std": (pytest.approx(0.5),)}),
        ({"out_strides": (16,), "drop_path_rate": 0.5}, {}),
        ({"model_name": "test_vit.r160_in1k"}, {}),
    ],
)
def test_an_override_changes_nothing_else_of_the_images(overrides, changed, tmp_path):
    spec = saved_with_images(tmp_path)
    assert FeatureBackbone.from_pretrained(tmp_path, **overrides).input_spec == replace(spec, **changed)


def test_a_license_of_ones_own_is_on_the_card(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    backbone.license = "apache-2.0"
    backbone.save_pretrained(tmp_path)
    assert "license: apache-2.0" in (tmp_path / "README.md").read_text()


def test_the_images_of_a_backbone_with_a_fixed_size(tmp_path):
    spec = saved_with_images(tmp_path, "test_coatnet", img_size=(97, 130))
    again = FeatureBackbone.from_pretrained(tmp_path, img_size=(64, 128), weights=None).input_spec
    assert again == replace(spec, size=(64, 128), min_size=64)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["input"]["size"] = [32, 32]
    path.write_text(json.dumps(values))
    with pytest.raises(
        WeightsCorruptedError, match=r"has the size \(32, 32\), and the backbone takes \(97, 130\) only"
    ):
        FeatureBackbone.from_pretrained(tmp_path)


def test_images_that_no_backbone_has_are_not_saved(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    spec = backbone.input_spec
    for field, value in (("std", (0, 1, 1)), ("mean", ("a", "b", "c")), ("mean", (0.5,)), ("min_size", 7)):
        backbone.input_spec = replace(spec, **{field: value})
        with pytest.raises((ConfigError, WeightsCorruptedError), match="input"):
            backbone.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_arguments_that_cannot_be_honored(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    backbone.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a folder, and has none"):
        FeatureBackbone.from_pretrained(tmp_path, revision="v1")
    with pytest.raises(ConfigError, match="extra_kwargs must be"):
        FeatureBackbone.from_pretrained(tmp_path, cache_dir=tmp_path, extra_kwargs=None)
    with pytest.raises(WeightsError, match="on the meta device has no weights to save"):
        backbone.to("meta").save_pretrained(tmp_path)


def test_the_saved_spec_is_told():
    spec = get_input_spec(create_feature_backbone("test_vit", pretrained=False))
    assert spec.to_dict()["mean"] == list(spec.mean)
