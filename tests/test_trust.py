"""What configs in folders and repositories may set, and what they may not."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from autobackbone import ConfigError, FeatureBackbone, WeightsNotFoundError, create_backbone, create_feature_backbone


def timm_folder(folder, model_args=None, **pretrained_cfg):
    """Save a small timm model as timm does, and set more in its config."""
    taken = {k: v for k, v in (model_args or {}).items() if k in ("in_chans", "output_stride", "img_size", "drop_rate")}
    model = timm.create_model("test_resnet", num_classes=5, **taken)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["model_args"] = values.get("model_args", {}) | (model_args or {})
    values["pretrained_cfg"] |= pretrained_cfg
    path.write_text(json.dumps(values))
    return f"local-dir:{folder}", model


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_path", "other.pth"),
        ("cache_dir", "elsewhere"),
        ("features_only", True),
        ("out_indices", [0]),
        ("feature_cls", "fx"),
        ("feature_cfg", {"flatten_sequential": True}),
        ("pretrained_cfg_overlay", {"file": "other.pth"}),
        ("pretrained_cfg", {"file": "other.pth"}),
        ("pretrained_strict", False),
        ("kwargs_filter", ["num_classes"]),
        ("device", "meta"),
        ("dtype", "float16"),
        ("scriptable", True),
        ("exportable", True),
        ("no_jit", True),
        ("no_such_argument", None),
        ("no_such_argument", 1),
        ("block_args", {"device": "meta"}),
        ("block_args", [[{"dtype": "float16"}]]),
        ("stem_width", float("nan")),
    ],
)
def test_what_a_timm_config_may_not_set(name, value, tmp_path):
    ref, _ = timm_folder(tmp_path, {name: value})
    for create in (create_feature_backbone, create_backbone):
        with pytest.raises(ConfigError, match=f"The config.json of '{ref}' sets '{name}'"):
            create(ref)


@pytest.mark.parametrize("key", ["file", "url", "hf_hub_id", "hf_hub_filename"])
def test_weights_beside_a_timm_config_are_those(key, tmp_path):
    """A config cannot lead elsewhere: what it says of where its weights are is not used."""
    other = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(1)}, other)
    (tmp_path / "model").mkdir()
    ref, model = timm_folder(
        tmp_path / "model", state_dict={"fc.weight": [0.0]}, source="url", custom_load="hf", **{key: str(other)}
    )
    backbone = create_feature_backbone(ref)
    assert torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)
    assert backbone.autobackbone.weights_report.origin == str(tmp_path / "model")


def test_arguments_of_the_architecture_may_be_set(tmp_path):
    model = timm.create_model("test_vit", num_classes=0, depth=3, act_layer="relu", init_values=0.5)
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    backbone = create_feature_backbone(f"local-dir:{tmp_path / 'timm'}", out_indices=(0,)).eval()
    assert len(backbone.native_levels) == 3
    assert isinstance(backbone.body.model.blocks[0].mlp.act, torch.nn.ReLU)
    assert torch.equal(backbone.body.model.pos_embed, model.pos_embed)  # of the size that it was built for
    backbone.save_pretrained(tmp_path / "saved")
    again = FeatureBackbone.from_pretrained(tmp_path / "saved").eval()
    x = torch.rand(1, 3, 64, 48)
    assert torch.equal(again(x)[0], backbone(x)[0])


def test_what_a_timm_config_says_of_fields(tmp_path):
    """What was saved holds where a field is left alone, and the field where it is not."""
    saved = {"in_chans": 1, "output_stride": 8, "drop_rate": 0.25, "drop_path_rate": 0.125}
    ref, model = timm_folder(tmp_path / "timm", saved)
    backbone = create_feature_backbone(ref)
    assert {name: getattr(backbone.config, name) for name in saved} == saved
    assert backbone.input_spec.in_chans == 1
    assert max(level.stride for level in backbone.native_levels) == 8
    assert torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)
    x = torch.rand(1, 1, 65, 97)
    expected = model.eval().forward_intermediates(x, indices=[4], intermediates_only=True)[0]
    deepest = create_feature_backbone(ref, out_indices=(4,)).eval()
    torch.testing.assert_close(deepest(x)[0], expected)

    other = create_feature_backbone(ref, in_chans=4, output_stride=16, drop_rate=0.5, pretrained=False)
    assert (other.config.in_chans, other.config.output_stride, other.config.drop_rate) == (4, 16, 0.5)
    insisting = create_feature_backbone(ref, extra_kwargs={"in_chans": 3, "output_stride": 32}, pretrained=False)
    assert (insisting.config.in_chans, insisting.strides) == (3, (8, 16, 32))

    pooled = create_backbone(ref).eval()
    assert pooled.autobackbone.input_spec.in_chans == 1
    torch.testing.assert_close(pooled.forward_features(x), expected)

    deepest.save_pretrained(tmp_path / "saved")
    again = FeatureBackbone.from_pretrained(tmp_path / "saved").eval()
    assert again.config == deepest.config.replace(
        weights=tmp_path / "saved",
        **{k: getattr(again.config, k) for k in ("model_name", "pretrained", "extra_kwargs")},
    )
    assert torch.equal(again(x)[0], deepest(x)[0])


@pytest.mark.parametrize(
    ("name", "value"), [("drop_rate", 2), ("in_chans", 0), ("output_stride", 7), ("img_size", [1])]
)
def test_fields_in_a_timm_config_that_are_not_valid(name, value, tmp_path):
    ref, _ = timm_folder(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["model_args"] = {name: value}
    path.write_text(json.dumps(values))
    with pytest.raises((ConfigError, WeightsNotFoundError), match="config"):
        create_feature_backbone(ref)


@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "hrnet_w18_small", "dinov3_vits16"])
def test_unknown_arguments_that_are_none(create, name):
    """timm leaves out what is None before it looks at names."""
    with pytest.raises(ConfigError, match=r"extra_kwargs\['no_such_argument'\]=None: .* takes no such argument"):
        create(name, pretrained=False, extra_kwargs={"no_such_argument": None})


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("test_resnet", "act_layer"),
        ("test_vit", "norm_layer"),
        ("test_efficientnet", "bn_eps"),
        ("test_vit", "use_naflex"),
    ],
)
def test_arguments_that_may_be_none(name, argument):
    assert create_feature_backbone(name, pretrained=False, extra_kwargs={argument: None}).levels


def edit(folder, **changes):
    """Change fields of the backbone in a saved config."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["backbone"] |= changes
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("extra_kwargs", "key"),
    [
        ({"cache_dir": "elsewhere"}, "cache_dir"),
        ({"checkpoint_path": "other.pth"}, "checkpoint_path"),
        ({"device": "meta"}, "device"),
        ({"dtype": "float16"}, "dtype"),
        ({"features_only": True}, "features_only"),
        ({"pretrained": True}, "pretrained"),
        ({"pretrained_cfg_overlay": {"file": "other.pth"}}, "file"),
        ({"pretrained_cfg_overlay": {"state_dict": {}}}, "state_dict"),
        ({"pretrained_cfg_overlay": {"custom_load": True}}, "custom_load"),
        ({"no_such_argument": None}, "no_such_argument"),
        ({"block_args": {"device": "meta"}}, "block_args"),
    ],
)
def test_what_a_saved_config_may_not_set(extra_kwargs, key, tmp_path):
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(tmp_path)
    edit(tmp_path, extra_kwargs=extra_kwargs)
    with pytest.raises(ConfigError, match=f"The config.json of '{tmp_path}' sets '{key}'"):
        FeatureBackbone.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("extra_kwargs", "key"),
    [
        ({"cache_dir": "elsewhere"}, "cache_dir"),
        ({"attn_implementation": "kernels-community/flash-attn"}, "attn_implementation"),
        ({"torch_dtype": "float16"}, "torch_dtype"),
        ({"auto_map": {"AutoModel": "owner/repo--code.Model"}}, "auto_map"),
    ],
)
def test_what_a_saved_config_of_transformers_may_not_set(extra_kwargs, key, tmp_path):
    backbone = create_feature_backbone("dinov3_convnext_tiny", pretrained=False, extra_kwargs={"depths": [1, 1, 1, 1]})
    backbone.save_pretrained(tmp_path)
    edit(tmp_path, extra_kwargs=extra_kwargs)
    with pytest.raises(ConfigError, match=f"The config.json of '{tmp_path}' sets '{key}'"):
        FeatureBackbone.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["hf-hub:someone/else", "local-dir:elsewhere", "hf_hub:someone/else"])
def test_a_saved_config_names_an_architecture_and_no_place(name, tmp_path):
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(tmp_path)
    edit(tmp_path, model_name=name)
    with pytest.raises(ConfigError, match=f"sets model_name='{name}'"):
        FeatureBackbone.from_pretrained(tmp_path)


def test_weights_beside_a_saved_config_are_those(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    backbone.save_pretrained(tmp_path)
    edit(tmp_path, weights="https://example.com/other.pth", pretrained=True)
    again = FeatureBackbone.from_pretrained(tmp_path)
    assert again.weights_report.origin == str(tmp_path)
    assert not FeatureBackbone.from_pretrained(tmp_path, weights=None).config.pretrained


def test_what_says_where_and_how_is_not_saved(tmp_path):
    said = {
        "cache_dir": str(tmp_path / "cache"),
        "exportable": True,
        "act_layer": "gelu",
        "pretrained_cfg_overlay": {"file": "other.pth", "mean": (0.1, 0.2, 0.3)},
    }
    backbone = create_feature_backbone("test_resnet", pretrained=False, extra_kwargs=said)
    backbone.save_pretrained(tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert values["backbone"]["extra_kwargs"] == {
        "act_layer": "gelu",
        "pretrained_cfg_overlay": {"mean": [0.1, 0.2, 0.3]},
    }
    again = FeatureBackbone.from_pretrained(tmp_path / "saved")
    assert again.input_spec == backbone.input_spec
    assert type(again.body.model.layer1[0].act1).__name__ == "GELU"

    kernels = {"depths": [1, 1, 1, 1], "cache_dir": str(tmp_path / "cache")}
    create_feature_backbone("dinov3_convnext_tiny", pretrained=False, extra_kwargs=kernels).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["backbone"]["extra_kwargs"] == {"depths": [1, 1, 1, 1]}


@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
def test_the_device_is_no_argument(create):
    for device in ("cpu", "meta"):
        with pytest.raises(ConfigError, match=r"extra_kwargs\['device'\]: the device is the default one"):
            create("test_resnet", pretrained=False, extra_kwargs={"device": device})


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    """A builder's own argument is for the user to give, and not for a file."""
    backbone = create_feature_backbone("test_resnet", pretrained=False, extra_kwargs={"pretrained_strict": False})
    with pytest.raises(ConfigError, match="What is to be saved sets 'pretrained_strict'"):
        backbone.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
