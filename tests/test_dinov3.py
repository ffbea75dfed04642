"""DINOv3: transformers' own outputs, the same weights through two sources, and what each field does.

Networks are cut in depth, which changes nothing that is tested.
"""

import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, DINOv3ConvNextBackbone, DINOv3ConvNextConfig, DINOv3ViTBackbone, DINOv3ViTConfig
from transformers.pytorch_utils import compile_compatible_method_lru_cache

from autobackbone import (
    BackboneConfig,
    ConfigError,
    FeatureBackboneConfig,
    InputError,
    InputSizeError,
    UnsupportedError,
    WeightsMismatchError,
    count_parameters,
    create_backbone,
    create_feature_backbone,
    freeze_stages,
    get_blocks,
    layer_decay_param_groups,
    load_weights,
)
from autobackbone.names import DINOV3
from autobackbone.sources.choose import make_plan
from autobackbone.sources.dinov3 import vit
from autobackbone.weights import files as checkpoints

VIT, CONVNEXT = {"num_hidden_layers": 3}, {"depths": [1, 1, 2, 1]}
TIMM_VIT, TIMM_CONVNEXT = {"depth": 3}, {"depths": (1, 1, 2, 1)}
PAIRS = [
    ("dinov3_vits16", "vit_small_patch16_dinov3", VIT, TIMM_VIT),
    ("dinov3_vits16", "vit_small_patch16_dinov3_qkvb", VIT, TIMM_VIT),
    ("dinov3_vits16plus", "vit_small_plus_patch16_dinov3", VIT, TIMM_VIT),
    ("dinov3_convnext_tiny", "convnext_tiny.dinov3_lvd1689m", CONVNEXT, TIMM_CONVNEXT),
    *(
        pytest.param(*pair, marks=pytest.mark.families)  # the same, and wider
        for pair in (
            ("dinov3_vitb16", "vit_base_patch16_dinov3", VIT, TIMM_VIT),
            ("dinov3_vitl16", "vit_large_patch16_dinov3", VIT, TIMM_VIT),
            ("dinov3_convnext_small", "convnext_small.dinov3_lvd1689m", CONVNEXT, TIMM_CONVNEXT),
            ("dinov3_convnext_base", "convnext_base.dinov3_lvd1689m", CONVNEXT, TIMM_CONVNEXT),
            ("dinov3_convnext_large", "convnext_large.dinov3_lvd1689m", CONVNEXT, TIMM_CONVNEXT),
        )
    ),
]
X = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def _hf(name, **changes):
    """Return transformers' own model, with weights that show what is used and what is not."""
    source = make_plan(FeatureBackboneConfig(name, pretrained=False, extra_kwargs=_cut(name) | changes))
    torch.manual_seed(3)
    model = AutoModel.from_config(source.hf_config).eval()
    for tensor_name, p in model.named_parameters():
        if not tensor_name.endswith(("q_proj.bias", "v_proj.bias", "mask_token")):  # zero, as the published ones
            nn.init.normal_(p, std=0.05)
    return model


def _cut(name):
    return CONVNEXT if "convnext" in name else VIT


def _published(name, folder, **changes):
    """Write a file as Meta publishes them, and return transformers' model of it."""
    model = _hf(name, **changes)
    model.save_pretrained(folder)
    return model


def _features(name, **fields):
    return create_feature_backbone(name, **({"pretrained": False, "extra_kwargs": _cut(name)} | fields)).eval()


def _close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_vits16plus", "dinov3_convnext_tiny"])
def test_equal_to_transformers(name, tmp_path):
    """Blocks from 0 are ours; transformers counts the embeddings, or the image, as 0."""
    model = _published(name, tmp_path)
    kind = DINOv3ConvNextBackbone if "convnext" in name else DINOv3ViTBackbone
    backbone = kind.from_pretrained(tmp_path, out_indices=[1, 3]).eval()
    ours = _features(name, weights=tmp_path, out_indices=(0, 2))
    with torch.no_grad():
        for y, e in zip(ours(X), backbone(X).feature_maps, strict=True):
            assert torch.equal(y, e)
        pooled = create_backbone(name, weights=tmp_path, extra_kwargs=_cut(name)).eval()
        _close(pooled(X), model(X).pooler_output)
        assert torch.equal(pooled.forward_head(pooled.forward_features(X), pre_logits=True), pooled(X))


@pytest.mark.parametrize("patch", [14, 32, 41])
def test_patches_of_another_size(patch, tmp_path):
    """They are transformers' maps, and timm's; an image that is not whole patches is padded."""
    model = _published("dinov3_vits16", tmp_path, patch_size=patch)
    fields = {"weights": tmp_path, "out_indices": (2,), "norm": True}
    ours = _features("dinov3_vits16", extra_kwargs=VIT | {"patch_size": patch}, **fields)
    timms = _features("vit_small_patch16_dinov3", extra_kwargs=TIMM_VIT | {"patch_size": patch}, **fields)
    odd = torch.rand(2, 3, 2 * patch + 1, 4 * patch - 3)
    x = nn.functional.pad(odd, (0, 3, 0, patch - 1))
    with torch.no_grad():
        expected = model(x).last_hidden_state[:, 5:].transpose(1, 2).reshape(2, -1, 3, 4)
        for backbone in (ours, timms):
            assert backbone.strides == (patch,)
            assert (backbone.input_spec.min_size, backbone.input_spec.size_divisor) == (1, patch)
            for images in (x, odd):
                _close(backbone(images)[0], expected)


def test_without_the_final_norm(tmp_path):
    model = _published("dinov3_vits16", tmp_path)
    ours = _features("dinov3_vits16", weights=tmp_path, out_indices=(0, 2), norm=False)
    with torch.no_grad():
        hidden = model(X, output_hidden_states=True).hidden_states
        for y, h in zip(ours(X), (hidden[1], hidden[3]), strict=True):
            assert torch.equal(y.flatten(2).transpose(1, 2), h[:, 5:])
    assert not any(name.startswith("body.norm") for name in ours.state_dict())


@pytest.mark.parametrize(("name", "timms", "cut", "timms_cut"), PAIRS)
def test_one_dinov3_two_sources(name, timms, cut, timms_cut, tmp_path):
    """A checkpoint of transformers in timm's architecture, and the other way round: features are equal."""
    _published(name, tmp_path)
    strides = (8, 16, 32)
    fields = {"out_strides": strides, "norm": None if "convnext" in name else True}
    here = create_feature_backbone(name, weights=tmp_path, extra_kwargs=cut, **fields).eval()
    there = create_feature_backbone(timms, weights=tmp_path, extra_kwargs=timms_cut, **fields).eval()
    assert here.weights_report.coverage == there.weights_report.coverage == 1
    assert here.channels == there.channels
    with torch.no_grad():
        for size in ((64, 96), (75, 130)):
            for y, e in zip(here(X[..., : size[0], :]), there(X[..., : size[0], :]), strict=True):
                _close(y, e)

    torch.save({"state_dict": _timm_model(timms, timms_cut, there)}, tmp_path / "timm.pth")
    back = create_feature_backbone(name, weights=tmp_path / "timm.pth", extra_kwargs=cut, **fields)
    assert back.weights_report.coverage == 1
    expected = here.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in back.state_dict().items())

    pool = {} if "convnext" in name else {"global_pool": "token"}
    one = create_backbone(name, weights=tmp_path, extra_kwargs=cut).eval()
    two = create_backbone(timms, weights=tmp_path, extra_kwargs=timms_cut | pool).eval()
    with torch.no_grad():
        _close(one(X), two(X))


def _timm_model(name, cut, backbone):
    """Return the state dict of the whole timm model that a backbone was cut from."""
    model = timm.create_model(name, num_classes=0, **cut)
    state = model.state_dict()
    return state | {k.removeprefix("body.model."): v for k, v in backbone.state_dict().items()}


def test_names_of_the_original_repository(tmp_path):
    model = _hf("dinov3_vits16")
    state = {}
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.patch_embeddings": "patch_embed.proj",
        "model.layer": "blocks",
        "attention.o_proj": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
    }
    own = model.state_dict()
    for name, value in own.items():
        new = name
        for theirs, metas in names.items():
            new = new.replace(theirs, metas)
        if "attention" not in new:
            state[new] = value
    for i in range(3):
        parts = [own[f"model.layer.{i}.attention.{part}_proj.weight"] for part in "qkv"]
        state[f"blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
        state[f"blocks.{i}.attn.qkv.bias"] = torch.zeros(3 * 384)
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(3 * 384)
    state["rope_embed.periods"] = torch.ones(16)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in state.items()}}, tmp_path / "meta.pth")
    model.save_pretrained(tmp_path)
    for name, cut in (("dinov3_vits16", VIT), ("vit_small_patch16_dinov3", TIMM_VIT)):
        expected = create_feature_backbone(name, weights=tmp_path / "model.safetensors", extra_kwargs=cut).eval()
        ours = create_feature_backbone(name, weights=tmp_path / "meta.pth", extra_kwargs=cut).eval()
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(ours(X), expected(X), strict=True))


def test_biases_are_not_dropped_unless_they_are_zero(tmp_path):
    model = _hf("dinov3_vits16")
    nn.init.ones_(model.model.layer[1].attention.v_proj.bias)
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError, match=r"bias .* not zero \('layer.1.attention.v_proj.bias'\).*'_qkvb'"):
        create_feature_backbone("vit_small_patch16_dinov3", weights=tmp_path, extra_kwargs=TIMM_VIT)
    with_bias = create_feature_backbone("vit_small_patch16_dinov3_qkvb", weights=tmp_path, extra_kwargs=TIMM_VIT)
    assert float(with_bias.body.model.blocks[1].attn.v_bias.detach().min()) == 1


@pytest.mark.parametrize("name", DINOV3)
def test_published_sizes(name):
    """The parameters are those of timm's model; transformers has a mask token and biases more."""
    timms = {
        "dinov3_vits16": 21_586_944,
        "dinov3_vits16plus": 28_683_264,
        "dinov3_vitb16": 85_641_216,
        "dinov3_vitl16": 303_079_424,
        "dinov3_vith16plus": 840_509_440,
        "dinov3_vit7b16": 6_716_030_976,
    }
    with torch.device("meta"):
        model = create_backbone(name, pretrained=False)
        if name in timms:
            biases = sum(p.numel() for n, p in model.named_parameters() if n.endswith(("q_proj.bias", "v_proj.bias")))
            assert count_parameters(model) - biases == timms[name]
            assert model.embeddings.register_tokens.shape[1] == 4
        else:
            twin = timm.create_model(name.removeprefix("dinov3_"), num_classes=0)
            assert count_parameters(model) == count_parameters(twin)
        features = create_feature_backbone(name, pretrained=False)
        maps = features(torch.empty(1, 3, 75, 130))
    assert features.strides == (8, 16, 32)
    assert [tuple(y.shape[2:]) for y in maps] == [(10, 17), (5, 9), (3, 5)]


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_convnext_tiny"])
def test_blocks_past_the_deepest_level_are_not_there(name):
    shallow, whole = _features(name, out_indices=(1,)), _features(name, out_indices=(1, -1))
    assert count_parameters(shallow) < count_parameters(whole)
    blocks = "body.model.layer.2." if "vit" in name else "body.model.stages.2."
    assert any(n.startswith(blocks) for n in whole.state_dict())
    assert not any(n.startswith(blocks) for n in shallow.state_dict())


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_convnext_tiny"])
@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
def test_training(name, create):
    """Every trainable parameter gets a gradient, twice the same one, and the same one with checkpointing."""
    model = create(name, pretrained=False, extra_kwargs=_cut(name)).train()
    x = X[..., :50, :75]
    gradients = []
    for checkpointing in (False, False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        y = model(x)
        sum(m.square().mean() for m in (y if isinstance(y, list) else [y])).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    for other in gradients[1:]:
        for n, grad in gradients[0].items():
            torch.testing.assert_close(other[n], grad, rtol=1e-4, atol=1e-6)
    assert all(p.requires_grad for p in model.parameters())
    body = model.body if create is create_feature_backbone else model
    block = body.model.layer[0] if "vit" in name else body.model.stages[0].layers[0]
    runs = []
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    y = model(x)
    assert len(runs) == 1
    sum(m.sum() for m in (y if isinstance(y, list) else [y])).backward()
    assert len(runs) == 2  # once more, in the backward pass


def test_rope_augmentation_is_there_if_asked_for():
    augmented = _features("dinov3_vits16", extra_kwargs=VIT | {"pos_embed_rescale": 2.0}, out_indices=(-1,)).train()
    plain = _features("dinov3_vits16", out_indices=(-1,)).train()
    with torch.no_grad():
        assert torch.equal(plain(X)[0], plain(X)[0])
        assert not torch.equal(augmented(X)[0], augmented(X)[0])
        assert torch.equal(augmented.eval()(X)[0], augmented(X)[0])


def test_stochastic_depth_grows_as_in_the_whole_network():
    whole = _features("dinov3_convnext_tiny", drop_path_rate=0.4, extra_kwargs={}, out_indices=(3,))
    cut = _features("dinov3_convnext_tiny", drop_path_rate=0.4, extra_kwargs={}, out_indices=(2,))

    def rates(backbone):
        return [m.drop_prob for m in backbone.modules() if hasattr(m, "drop_prob")]

    assert rates(whole)[-1] == pytest.approx(0.4)
    assert rates(cut) == pytest.approx(rates(whole)[: len(rates(cut))])


@pytest.mark.parametrize("channels", [1, 4, 5])
@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_convnext_tiny"])
def test_the_stem_is_adapted_as_timm_does(name, channels, tmp_path):
    model = _published(name, tmp_path)
    backbone = _features(name, weights=tmp_path, in_chans=channels)
    key = "embeddings.patch_embeddings" if "vit" in name else "model.stages.0.downsample_layers.0"
    expected = timm.models.adapt_input_conv(channels, model.get_parameter(f"{key}.weight").detach())
    assert torch.equal(backbone.body.get_parameter(f"{key}.weight"), expected)
    y = backbone(backbone.input_spec.normalize(torch.rand(1, channels, 50, 70)))
    assert y[0].shape[2:] == (7, 9)


def test_input_of_web_and_satellite_weights():
    web = _features("dinov3_vitl16").input_spec
    satellite = _features("facebook/dinov3-vitl16-pretrain-sat493m").input_spec
    assert web.mean == (0.485, 0.456, 0.406)
    assert satellite.mean == (0.430, 0.411, 0.296)
    assert satellite.std == (0.213, 0.156, 0.143)
    assert (web.size, web.interpolation, web.min_size, web.size_divisor) == ((224, 224), "bilinear", 1, 16)
    assert _features("dinov3_vitl16", img_size=(320, 256)).input_spec.size == (320, 256)


def test_a_classifier():
    model = create_backbone(BackboneConfig("dinov3_vits16", pretrained=False, num_classes=7, extra_kwargs=VIT))
    assert model(X).shape == (2, 7)
    assert model.get_classifier().out_features == 7
    assert model.num_features == model.head_hidden_size == 384
    model.reset_classifier(0)
    assert model(X).shape == (2, 384)
    assert isinstance(model.get_classifier(), nn.Identity)
    for wrong, error in ((X[0], InputError), (X[:, :2], InputError), (X[..., :15], InputSizeError)):
        with pytest.raises(error):
            model(wrong)


def test_a_classifier_is_saved_and_loaded(tmp_path, monkeypatch):
    fields = {"num_classes": 5, "extra_kwargs": VIT}
    trained = create_backbone("dinov3_vits16", pretrained=False, **fields)
    save_file(trained.state_dict(), tmp_path / "own.safetensors")
    again = create_backbone("dinov3_vits16", weights=tmp_path / "own.safetensors", **fields)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))
    _published("dinov3_vits16", tmp_path)
    new = create_backbone("dinov3_vits16", weights=tmp_path / "model.safetensors", **fields)
    assert 0 < float(new.head.weight.detach().std()) < 0.1
    assert new.autobackbone.weights_report.missing == ("head.weight", "head.bias")
    built = []
    kind = vit.DINOv3ViTModel
    monkeypatch.setattr(vit, "DINOv3ViTModel", lambda config: built.append(config) or kind(config))
    create_backbone("dinov3_vits16", weights=tmp_path / "model.safetensors", **fields)
    assert len(built) == 1


def test_load_weights_into_what_is_there(tmp_path):
    model = _published("dinov3_vits16", tmp_path)
    backbone = _features("dinov3_vits16", out_indices=(1,))
    report = load_weights(backbone, tmp_path)
    assert report.coverage == 1
    assert report.unexpected == ()
    assert torch.equal(backbone.body.model.layer[1].norm1.weight, model.model.layer[1].norm1.weight)


def test_a_norm_that_is_used_is_not_left_to_chance(tmp_path):
    model = _hf("dinov3_vits16")
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("norm.")}, tmp_path / "part.pth")
    with pytest.raises(WeightsMismatchError, match=r"2 missing \(first 'norm.weight'\)"):
        _features("dinov3_vits16", weights=tmp_path / "part.pth")
    assert _features("dinov3_vits16", weights=tmp_path / "part.pth", norm=False).weights_report.coverage == 1


def test_creation_with_weights_is_the_fast_one(tmp_path, monkeypatch):
    """Each parameter is the memory of the file; none was initialized, copied, or built twice."""
    for name in ("dinov3_vits16", "dinov3_convnext_tiny"):
        _published(name, tmp_path / name)
        held = {}
        read = checkpoints.load_file
        monkeypatch.setattr(
            checkpoints, "load_file", lambda path, read=read, held=held: held.setdefault(path, read(path))
        )
        backbone = _features(name, weights=tmp_path / name)
        (state,) = held.values()
        addresses = {tensor.data_ptr() for tensor in state.values()}
        assert all(p.data_ptr() in addresses for p in backbone.parameters())


def test_published_weights_need_no_network_once_they_are_cached(tmp_path, monkeypatch):
    repo = "models--facebook--dinov3-vits16-pretrain-lvd1689m"
    commit = "0" * 40
    snapshot = tmp_path / repo / "snapshots" / commit
    model = _published("dinov3_vits16", snapshot, num_hidden_layers=12)
    (tmp_path / repo / "refs").mkdir()
    (tmp_path / repo / "refs" / "main").write_text(commit)
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "size": {"height": 256, "width": 256}}
    (snapshot / "preprocessor_config.json").write_text(json.dumps(processor))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    backbone = create_feature_backbone("dinov3_vits16", extra_kwargs={"cache_dir": str(tmp_path)}).eval()
    assert torch.equal(backbone.body.model.layer[3].norm1.weight, model.model.layer[3].norm1.weight)
    assert backbone.input_spec.mean == (0.1, 0.2, 0.3)
    assert backbone.input_spec.size == (256, 256)
    assert backbone.weights_report.origin == "facebook/dinov3-vits16-pretrain-lvd1689m"
    for wrong in (
        {"image_mean": ["a", "b", "c"]},
        {"image_std": [0, 1, 1]},
        {"image_mean": [0.5]},
        {"image_std": "abc"},
    ):
        (snapshot / "preprocessor_config.json").write_text(json.dumps(processor | wrong))
        spec = create_feature_backbone(backbone.config).input_spec
        assert (spec.mean, spec.std, spec.size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224))


REFUSED = [
    ({"output_stride": 8}, UnsupportedError, "output_stride=8: 'dinov3_convnext_tiny' cannot be dilated"),
    ({"norm": True}, UnsupportedError, "norm=True: 'dinov3_convnext_tiny' has no final norm"),
    ({"drop_rate": 0.1}, ConfigError, "drop_rate=0.1: there is no dropout in the features"),
    ({"extra_kwargs": {"depth": 3}}, ConfigError, "takes no such argument; did you mean 'depths'?"),
    ({"extra_kwargs": {"qqqq": 3}}, ConfigError, "DINOv3ConvNextConfig takes no such argument; leave it out."),
    ({"extra_kwargs": {"num_channels": 4}}, ConfigError, "contradicts in_chans=3; set the field in_chans"),
    ({"extra_kwargs": {"image_size": 256}}, ConfigError, "contradicts img_size=None; set the field img_size"),
    ({"extra_kwargs": {"dtype": "bfloat16"}}, ConfigError, "takes no such argument"),
    ({"extra_kwargs": {"depths": "many"}}, ConfigError, "DINOv3ConvNextConfig does not take extra_kwargs="),
    ({"out_indices": (4,)}, ConfigError, "there is no level 4; its levels are 0 (stride 4), 1 (stride 8)"),
]


@pytest.mark.parametrize(("fields", "error", "message"), REFUSED)
def test_what_cannot_be_honored(fields, error, message):
    with pytest.raises(error) as err:
        create_feature_backbone("dinov3_convnext_tiny", pretrained=False, **fields)
    assert message in str(err.value)


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_convnext_tiny"])
def test_compiles_and_exports(name):
    backbone = _features(name)
    x = X[:1, :, :50, :75]
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    program = torch.export.export(backbone, (x,)).module()
    with torch.no_grad():
        for y, c, e in zip(backbone(x), compiled(x), program(x), strict=True):
            _close(c, y)
            _close(e, y)


def test_autocast():
    for name in ("dinov3_vits16", "dinov3_convnext_tiny"):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert all(bool(y.isfinite().all()) for y in _features(name)(X[..., :50, :75]))


@pytest.mark.parametrize(
    "look", [get_blocks, lambda b: freeze_stages(b, 1), lambda b: layer_decay_param_groups(b, 0.1)]
)
def test_looking_at_a_network_leaves_nothing_in_the_cache_of_positions(look, monkeypatch):
    modeling = sys.modules["transformers.models.dinov3_vit.modeling_dinov3_vit"]
    fresh = compile_compatible_method_lru_cache(maxsize=32)(modeling.get_patches_center_coordinates.__wrapped__)
    monkeypatch.setattr(modeling, "get_patches_center_coordinates", fresh)
    backbone = create_feature_backbone("dinov3_vits16", pretrained=False, extra_kwargs={"num_hidden_layers": 1})
    look(backbone)
    for y in backbone(torch.rand(1, 3, *backbone.input_spec.size)):
        assert type(y) is torch.Tensor
        assert bool(y.isfinite().all())


def test_configs_of_transformers_are_what_is_built():
    source = make_plan(FeatureBackboneConfig("dinov3_vits16", extra_kwargs={"attn_implementation": "eager"}))
    assert isinstance(source.hf_config, DINOv3ViTConfig)
    assert source.hf_config._attn_implementation == "eager"
    assert isinstance(make_plan(FeatureBackboneConfig("dinov3_convnext_base")).hf_config, DINOv3ConvNextConfig)
