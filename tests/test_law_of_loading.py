"""Every tensor is what the checkpoint has for it, or an error is raised and nothing changed: ways it was not so."""

import json
import os
import pickle

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    FeaturePyramid,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    create_feature_backbone,
    init_non_persistent_buffers,
    load_weights,
)
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import load_checkpoint

NAME = "test_resnet"
VIT = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 16}
TIMM_VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 0.5}


def make(name=NAME, **fields):
    return create_feature_backbone(name, pretrained=False, **fields)


def filled(state, seed):
    """Return the tensors with other values, all of them distinct from what layers start with."""
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.rand(v.shape, generator=generator) + 0.5 if v.is_floating_point() else v for k, v in state.items()}


def network(name=NAME, seed=1, **arguments):
    return filled(timm.create_model(name, **arguments).state_dict(), seed)


def saved(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def unchanged(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def copied(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


# --- the choice among networks


CONVERTED = {
    "channels": (NAME, {"in_chans": 1}, lambda: network(in_chans=1), lambda: network(seed=2)),
    "size": ("test_vit", {"img_size": 80}, lambda: network("test_vit", img_size=80), lambda: network("test_vit", 2)),
}


@pytest.mark.parametrize("case", CONVERTED)
@pytest.mark.parametrize("average", ["model_ema", "teacher"])
def test_averages_come_first_even_if_they_alone_need_a_conversion(case, average, tmp_path):
    name, fields, raw, ema = CONVERTED[case]
    path = saved(tmp_path, {"model": raw(), average: ema()})
    backbone = create_feature_backbone(name, weights=path, **fields)
    assert backbone.weights_report.entry == average


def test_two_networks_of_which_one_needs_a_conversion_are_a_choice(tmp_path):
    path = saved(tmp_path, {"a": network(in_chans=1), "b": network(seed=2)})
    with pytest.raises(WeightsMismatchError, match="several networks"):
        create_feature_backbone(NAME, in_chans=1, weights=path)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_parts_of_two_networks_are_a_choice(share, tmp_path):
    names = list(make().body.model.state_dict())
    names = names[: int(share * len(names))]
    online, target = ({k: v for k, v in network(seed=s).items() if k in names} for s in (1, 2))
    path = saved(tmp_path, {"online": online, "target": target})
    backbone = make()
    before = copied(backbone)
    with pytest.raises(WeightsMismatchError, match="several networks"):
        load_weights(backbone, path, strict=False)
    assert unchanged(backbone, before)


def test_a_network_that_cannot_be_converted_does_not_stand_in_the_way_of_another(tmp_path):
    good = original()
    bad = good | {"blocks.0.attn.qkv.bias": torch.ones_like(good["blocks.0.attn.qkv.bias"])}
    bad = {k: v for k, v in bad.items() if not k.endswith("bias_mask")}  # so that the keys have biases
    path = saved(tmp_path, {"teacher": good, "student": bad})
    assert create_feature_backbone("dinov3_vits16", weights=path, extra_kwargs=VIT).weights_report.entry == "teacher"
    with pytest.raises(WeightsMismatchError, match="bias for the k of attention that is not zero"):
        create_feature_backbone("dinov3_vits16", weights=saved(tmp_path, bad), extra_kwargs=VIT)


# --- DINOv3 in other names


def original():
    """Return a state dict in the names of the original repository."""
    own = make("dinov3_vits16", extra_kwargs=VIT, norm=True).body.state_dict()
    state = filled(own, 3)
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.mask_token": "mask_token",
        "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
        "norm.weight": "norm.weight",
        "norm.bias": "norm.bias",
    }
    result = {new: state[old] for old, new in names.items()}
    for i in range(2):
        old, new = f"model.layer.{i}.", f"blocks.{i}."
        for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            result[new + part] = state[old + part]
        for part in ("weight", "bias"):
            result[f"{new}attn.proj.{part}"] = state[f"{old}attention.o_proj.{part}"]
            result[f"{new}mlp.fc1.{part}"] = state[f"{old}mlp.up_proj.{part}"]
            result[f"{new}mlp.fc2.{part}"] = state[f"{old}mlp.down_proj.{part}"]
        for n in "12":
            result[f"{new}ls{n}.gamma"] = state[f"{old}layer_scale{n}.lambda1"]
        result[f"{new}attn.qkv.weight"] = torch.cat([state[f"{old}attention.{p}_proj.weight"] for p in "qkv"])
        biases = [state[f"{old}attention.{p}_proj.bias"] for p in "qv"]
        result[f"{new}attn.qkv.bias"] = torch.cat([biases[0], torch.zeros(32), biases[1]])
        mask = torch.ones(96)
        mask[32:64] = 0
        result[f"{new}attn.qkv.bias_mask"] = mask
    return result


def test_the_original_names_are_loaded(tmp_path):
    path = saved(tmp_path, original())
    report = create_feature_backbone("dinov3_vits16", weights=path, extra_kwargs=VIT).weights_report
    assert (report.coverage, report.missing, report.unexpected) == (1, (), ())


@pytest.mark.parametrize(
    ("library", "lost"),
    [("original", "blocks.1.attn.qkv.bias"), ("timm", "blocks.1.attn.q_bias"), ("timm", "v_bias")],
)
def test_biases_that_one_block_lacks_are_missing(library, lost, tmp_path):
    if library == "original":
        state = original()
    else:
        timm_name = "vit_small_patch16_dinov3_qkvb"
        state = filled(timm.create_model(timm_name, **TIMM_VIT).state_dict(), 1)
    kept = {k: v for k, v in state.items() if not k.removesuffix("_mask").endswith(lost)}
    assert len(kept) < len(state)
    with pytest.raises(WeightsMismatchError, match=r"missing \(first 'model\.layer\.\d\.attention\.[qv]_proj\.bias'"):
        create_feature_backbone("dinov3_vits16", weights=saved(tmp_path, kept), extra_kwargs=VIT)


@pytest.mark.parametrize("extra", ["blocks.0.attn.q_norm.weight", "blocks.1.adapter.down.bias", "blocks.2.norm1.bias"])
def test_more_in_its_blocks_under_other_names(extra, tmp_path):
    path = saved(tmp_path, original() | {extra: torch.ones(16)})
    with pytest.raises(WeightsMismatchError, match="unexpected"):
        create_feature_backbone("dinov3_vits16", weights=path, extra_kwargs=VIT)


def test_keys_with_biases_that_no_mask_takes_away(tmp_path):
    state = original()
    state["blocks.0.attn.qkv.bias"] = torch.ones(96)
    state["blocks.0.attn.qkv.bias_mask"] = torch.ones(96)
    with pytest.raises(WeightsMismatchError, match="bias for the k of attention that is not zero"):
        create_feature_backbone("dinov3_vits16", weights=saved(tmp_path, state), extra_kwargs=VIT)


@pytest.mark.parametrize("value", [torch.ones(100, 7), torch.tensor(1.0), torch.ones(32)])
def test_parts_of_attention_that_do_not_go_together(value, tmp_path):
    state = make("dinov3_vits16", extra_kwargs=VIT).body.state_dict()
    path = saved(tmp_path, state | {"model.layer.0.attention.v_proj.weight": value})
    with pytest.raises(WeightsMismatchError):
        create_feature_backbone("vit_small_patch16_dinov3_qkvb", weights=path, extra_kwargs=TIMM_VIT)


@pytest.mark.parametrize("arguments", [{"num_attention_heads": 5}, {"num_attention_heads": 384}, {"hidden_size": 100}])
def test_heads_that_do_not_divide_the_width(arguments):
    with pytest.raises(ConfigError, match="no multiple of 4 times num_attention_heads"):
        make("dinov3_vits16", extra_kwargs={"num_hidden_layers": 1} | arguments)


# --- kinds of tensors


@pytest.mark.parametrize("kind", ["pyramid", "fpn"])
def test_codes_in_a_part_beside_the_network(kind, tmp_path):
    backbone = make("test_vit", pyramid="simple", pyramid_channels=16, out_strides=(8, 16, 32))
    whole = backbone if kind == "pyramid" else FeaturePyramid(backbone, 16)
    codes = {}
    for key, value in whole.state_dict().items():
        if key.startswith(f"{kind}.") and value.ndim > 1:
            codes |= {key: (value * 100).to(torch.float8_e4m3fn), f"{key}_scale": torch.tensor(0.01)}
        else:
            codes[key] = value
    if kind == "pyramid":
        with pytest.raises(WeightsMismatchError, match="of a quantized format"):
            load_weights(backbone, saved(tmp_path, codes))
        return
    whole.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(codes, tmp_path / "saved" / "model.safetensors", metadata)
    with pytest.raises(WeightsMismatchError, match="of a quantized format"):
        FeaturePyramid.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("value", [torch.ones((), dtype=torch.bool), torch.tensor(1.5), torch.tensor(1j)])
@pytest.mark.parametrize("fields", [{}, {"in_chans": 1}])
def test_counters_of_another_kind_do_not_vanish(value, fields, tmp_path):
    path = saved(tmp_path, network() | {"bn1.num_batches_tracked": value})
    with pytest.raises(WeightsMismatchError, match="kind"):
        create_feature_backbone(NAME, weights=path, **fields)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("fields", [{}, {"in_chans": 1}])
def test_nested_tensors_are_none_of_the_models(fields):
    nested = torch.nested.nested_tensor([torch.rand(2), torch.rand(3)])
    backbone = make(**fields)
    own, rules = backbone.network, backbone.autobackbone.rules
    before = copied(own)
    with pytest.raises(WeightsMismatchError, match=r"sparse, nested, quantized or without values|missing"):
        load_checkpoint(own, Checkpoint("memory", lambda: network() | {"conv1.0.weight": nested}), rules)
    assert unchanged(own, before)
    report = load_checkpoint(own, Checkpoint("memory", lambda: network() | {"other": nested}), rules)
    assert (report.coverage, report.unexpected) == (1, ("other",))


# --- models that cannot take them


def _sparse(conv):
    conv.weight = nn.Parameter(conv.weight.data.to_sparse())


def _expanded(conv):
    conv.weight.data = torch.zeros(1).expand(conv.weight.shape)


def _inference(conv):
    with torch.inference_mode():
        conv.weight = nn.Parameter(torch.zeros(conv.weight.shape))


@pytest.mark.parametrize("spoil", [_sparse, _expanded, _inference])
@pytest.mark.filterwarnings("ignore:.*sparse:UserWarning")
def test_nothing_is_written_where_something_cannot_be(spoil, tmp_path):
    backbone = make()
    spoil(backbone.body.model.layer2[0].conv1)
    before = copied(backbone)
    with pytest.raises(WeightsError, match=r"'layer2\.0\.conv1\.weight' of the model .*Nothing was loaded"):
        load_weights(backbone, saved(tmp_path, network()))
    assert all(torch.equal(v.to_dense(), before[k].to_dense()) for k, v in backbone.state_dict().items())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_layers_without_shapes(tmp_path):
    path = saved(tmp_path, {"weight": torch.ones(3, 2), "bias": torch.ones(3)})
    lazy = nn.LazyLinear(3)
    with pytest.raises(WeightsError, match="has no shape yet"):
        load_weights(lazy, path)


def test_tied_tensors_with_two_values(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

    model = Tied()
    state, before = copied(model), copied(model)
    assert load_weights(model, saved(tmp_path, filled(state, 1) | {"b.weight": filled(state, 1)["a.weight"]})).loaded
    before = copied(model)
    with pytest.raises(WeightsMismatchError, match=r"one tensor as 'a\.weight' and 'b\.weight'"):
        load_weights(model, saved(tmp_path, filled(state, 1) | {"b.weight": torch.zeros(2, 2)}))
    assert unchanged(model, before)


# --- on the meta device


def test_what_has_values_keeps_them(tmp_path):
    backbone = make()
    load_weights(backbone, saved(tmp_path, network()))
    backbone.body.model.layer4.to("meta")
    part = {k: v for k, v in network(seed=2).items() if k.startswith("layer4")}
    report = load_weights(backbone, saved(tmp_path, part), strict=False)
    expected = network() | part
    state = backbone.body.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in state.items())
    assert set(report.missing) == {k for k in state if k not in part and not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_on_the_meta_device_keeps_its_type(dtype, tmp_path):
    with torch.device("meta"):
        backbone = make().to(dtype)
    state = network()
    state["conv1.0.weight"][0, 0, 0, 0] = 1e5
    report = load_weights(backbone, saved(tmp_path, state))
    assert {p.dtype for p in backbone.parameters()} == {dtype}
    assert all(torch.equal(v, state[k].to(v.dtype)) for k, v in backbone.body.model.state_dict().items())
    assert report.nonfinite == (("conv1.0.weight",) if dtype == torch.float16 else ())


def _dropout(layer):
    layer[0].act2 = nn.Sequential(nn.ReLU(), nn.Dropout(0.1))
    return layer


@pytest.mark.parametrize("change", [_dropout, checkpoint_wrapper])
def test_models_changed_on_the_meta_device(change, tmp_path):
    with torch.device("meta"):
        backbone = make()
    backbone.body.model.layer1 = change(backbone.body.model.layer1)
    path = saved(tmp_path, network())
    if change is _dropout:  # nothing that has tensors is elsewhere
        load_weights(backbone, path)
        assert all(torch.equal(v, network()[k]) for k, v in backbone.body.model.state_dict().items())
        init_non_persistent_buffers(backbone)
        return
    with pytest.raises(WeightsError, match=r"was changed since it was created \(first 'layer1"):
        load_weights(backbone, path)
    assert all(p.is_meta for p in backbone.parameters())


# --- files


def test_shards_that_contradict_each_other(tmp_path):
    first, second = network(), network(seed=2)
    names = list(first)
    half = len(names) // 2
    save_file({k: first[k] for k in names[:half]}, tmp_path / "1.safetensors")
    save_file({k: first[k] for k in names[half:]} | {names[0]: second[names[0]]}, tmp_path / "2.safetensors")
    index = {"weight_map": {k: f"{1 if i < half else 2}.safetensors" for i, k in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsCorruptedError, match=f"two different values for '{names[0]}'"):
        create_feature_backbone(NAME, weights=tmp_path)
    save_file({k: first[k] for k in names[half:]} | {names[0]: first[names[0]]}, tmp_path / "2.safetensors")
    assert create_feature_backbone(NAME, weights=tmp_path).weights_report.coverage == 1


def test_an_index_of_no_shards(tmp_path):
    make().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    for load in (FeatureBackbone.from_pretrained, lambda path: create_feature_backbone(NAME, weights=path)):
        with pytest.raises(WeightsCorruptedError, match="names no file"):
            load(tmp_path)


class _Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_what_a_refused_file_holds_is_told(how, tmp_path):
    path = tmp_path / "weights.pth"
    content = network() | {"x": _Evil()}
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Evil(), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(WeightsCorruptedError, match=r"holds Python objects \((posix|nt)\.system"):
        load_weights(make(), path)


# --- saving


def test_double_precision_is_not_saved_as_single(tmp_path):
    backbone = make().double()
    with pytest.raises(WeightsMismatchError, match=r"make double precision single by float\(\)"):
        backbone.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    backbone.float().save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file(name, tmp_path):
    old, new = make(), make()
    old.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    files = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=f"{name} is a folder in it"):
        new.save_pretrained(tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    if name == "README.md":
        assert unchanged(FeatureBackbone.from_pretrained(tmp_path), old.state_dict())


def test_a_config_cannot_call_a_part_of_the_network_a_classifier(tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({k: v for k, v in load_file(path).items() if ".layer4." not in k}, path, metadata)
    values = json.loads((tmp_path / "config.json").read_text())
    values["backbone"]["extra_kwargs"] = {"pretrained_cfg_overlay": {"classifier": "layer4"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsMismatchError, match=r"missing \(first 'layer4"):
        FeatureBackbone.from_pretrained(tmp_path)


def test_channels_that_a_config_may_ask_memory_for(tmp_path):
    with pytest.raises(ConfigError, match="at most 8192"):
        make("test_vit", pyramid="simple", pyramid_channels=65536)
    with pytest.raises(ConfigError, match="at most 8192"):
        FeaturePyramid(make(), 65536)
    FeaturePyramid(make(), 8).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["fpn"]["out_channels"] = 65536
    path.write_text(json.dumps(values))
    with pytest.raises(WeightsCorruptedError, match="at most 8192"):
        FeaturePyramid.from_pretrained(tmp_path)
