"""Weights: files that the tests make, whole, wrapped, damaged, and of something else."""

import argparse
import collections
import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    create_backbone,
    create_feature_backbone,
    load_weights,
)

X = torch.linspace(-1, 1, 3 * 97 * 130).reshape(1, 3, 97, 130)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return timm.create_model("test_resnet").eval()


@pytest.fixture(params=["safetensors", "pth", "pt", "bin", "ckpt", "pth.tar"])
def checkpoint(request, tmp_path, model):
    path = tmp_path / f"weights.{request.param}"
    (save_file if request.param == "safetensors" else torch.save)(model.state_dict(), path)
    return path


def test_features_are_those_of_raw_timm(model, checkpoint):
    backbone = create_feature_backbone("test_resnet", weights=checkpoint, out_indices=(1, 4)).eval()
    expected = model.forward_intermediates(X, indices=[1, 4], intermediates_only=True)
    assert all(torch.equal(y, e) for y, e in zip(backbone(X), expected, strict=True))
    report = backbone.weights_report
    assert (report.origin, report.coverage, report.prefix, report.entry) == (str(checkpoint), 1, "", "")
    assert report.missing == report.unexpected == report.mismatched == report.nonfinite == ()
    assert report.loaded == sum(t.numel() for t in backbone.state_dict().values())


def test_pooled_features_are_those_of_raw_timm(model, checkpoint):
    backbone = create_backbone("test_resnet", weights=str(checkpoint)).eval()
    assert torch.equal(backbone(X), model.forward_head(model.forward_features(X), pre_logits=True))
    assert backbone.autobackbone.weights_report.coverage == 1


def test_a_shallow_request_takes_a_whole_checkpoint(model, checkpoint):
    backbone = create_feature_backbone("test_resnet", weights=checkpoint, out_indices=(1,))
    assert torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)
    assert backbone.weights_report.unexpected == ()  # deeper layers and the classifier are known


def _prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def _noise(state):
    return {name: torch.full_like(value, 7) for name, value in state.items()}


WRAPPERS = {
    "a plain state dict": (lambda s: s, "", ""),
    "torch.nn.DataParallel and DDP": (lambda s: _prefixed(s, "module."), "", "module."),
    "torch.compile": (lambda s: _prefixed(s, "_orig_mod."), "", "_orig_mod."),
    "torch.compile of DDP": (lambda s: {"model": _prefixed(s, "module._orig_mod.")}, "model", "module._orig_mod."),
    "timm's training script": (
        lambda s: (
            {"epoch": 3, "arch": "x", "state_dict": _noise(s), "state_dict_ema": s, "metric": np.float64(0.5)}
            | {
                "args": argparse.Namespace(lr=0.1),
                "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []},
            }
        ),
        "state_dict_ema",
        "",
    ),
    "Lightning": (
        lambda s: (
            {"state_dict": _prefixed(s, "model.backbone.") | {"model.head.weight": torch.ones(3)}}
            | {"hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.5", "callbacks": {}, "loops": {}}
            | {"optimizer_states": [{"state": collections.defaultdict(dict), "param_groups": [{"lr": 0.1}]}]}
        ),
        "state_dict",
        "model.backbone.",
    ),
    "a student and its teacher": (
        lambda s: {"student": _prefixed(_noise(s), "backbone."), "teacher": _prefixed(s, "backbone.")},
        "teacher",
        "backbone.",
    ),
    "a student and its teacher in one": (
        lambda s: {"state_dict": _prefixed(_noise(s), "student.") | _prefixed(s, "teacher.")},
        "state_dict",
        "teacher.",
    ),
    "a detector": (
        lambda s: {"model": _prefixed(s, "backbone.body.") | {"rpn.head.weight": torch.ones(2, 2)}},
        "model",
        "backbone.body.",
    ),
    "a segmenter": (lambda s: _prefixed(s, "encoder.") | {"decoder.0.weight": torch.ones(2)}, "", "encoder."),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_state_dict_is_found_in_its_wrappers(name, model, tmp_path):
    wrap, entry, prefix = WRAPPERS[name]
    path = tmp_path / "weights.pth"
    torch.save(wrap(model.state_dict()), path)
    for backbone in (
        create_feature_backbone("test_resnet", weights=path),
        create_backbone("test_resnet", weights=path),
    ):
        report = backbone.autobackbone.weights_report
        assert (report.entry, report.prefix, report.coverage) == (entry, prefix, 1)
        conv = getattr(backbone, "body", None).model.conv1 if isinstance(backbone, FeatureBackbone) else backbone.conv1
        assert torch.equal(conv[0].weight, model.conv1[0].weight)


def test_what_a_backbone_has_no_place_for_is_reported(model, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(_prefixed(model.state_dict(), "backbone.") | {"rpn.weight": torch.ones(1)}, path)
    report = create_feature_backbone("test_resnet", weights=path).weights_report
    assert report.unexpected == ("rpn.weight",)
    assert "1 unexpected (first 'rpn.weight')" in str(report)
    assert "prefix 'backbone.'" in str(report)


def test_the_state_dict_of_a_backbone_of_ours(tmp_path):
    trained = create_feature_backbone("test_resnet", pretrained=False)
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    backbone = create_feature_backbone("test_resnet", weights=tmp_path / "own.pth")
    assert backbone.weights_report.prefix == "body.model."
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), trained.parameters(), strict=True))


def test_a_classifier_that_fits_is_loaded_and_one_that_does_not_is_new(tmp_path):
    trained = create_backbone("test_resnet", pretrained=False, num_classes=5).eval()
    save_file(trained.state_dict(), tmp_path / "own.safetensors")
    again = create_backbone("test_resnet", weights=tmp_path / "own.safetensors", num_classes=5).eval()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))
    assert again.autobackbone.weights_report.coverage == 1
    other = create_backbone("test_resnet", weights=tmp_path / "own.safetensors", num_classes=4).eval()
    assert other(X).shape == (1, 4)
    assert bool(other.fc.weight.isfinite().all())
    assert float(other.fc.weight.detach().std()) > 0
    assert other.autobackbone.weights_report.missing == ("fc.weight", "fc.bias")
    assert torch.equal(other.conv1[0].weight, trained.conv1[0].weight)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_stem_is_adapted_as_timm_does(model, channels, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    raw = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay={"file": path}, in_chans=channels)
    ours = create_feature_backbone("test_resnet", weights=path, in_chans=channels)
    assert torch.equal(ours.body.model.conv1[0].weight, raw.conv1[0].weight)
    assert ours.weights_report.coverage == 1


def test_a_position_table_is_resized_as_timm_does(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("deit_tiny_patch16_224").state_dict(), path)
    overlay = {"file": path}
    raw = timm.create_model(
        "deit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, img_size=(160, 96), num_classes=0
    )
    ours = create_feature_backbone("deit_tiny_patch16_224", weights=path, img_size=(160, 96))
    assert torch.equal(ours.body.model.pos_embed, raw.pos_embed)


def test_another_librarys_names_are_converted_as_timm_does(tmp_path):
    """torchvision's and Meta's ConvNeXt: the first release of its weights."""
    raw = timm.create_model("test_convnext", num_classes=0)
    names = {"stem.": "downsample_layers.0.", "conv_dw": "dwconv", "mlp.fc": "pwconv", "head.norm": "norm"}
    state = {}
    for name, value in raw.state_dict().items():
        new = name
        for timms, metas in names.items():
            new = new.replace(timms, metas)
        parts = new.split(".")
        if parts[0] == "stages" and parts[2] == "downsample":
            parts = ["downsample_layers", parts[1], *parts[3:]]
        state[".".join(p for p in parts if p != "blocks")] = value
    torch.save({"model": state}, tmp_path / "convnext.pth")
    ours = create_feature_backbone("test_convnext", weights=tmp_path / "convnext.pth", out_indices=(0, 3)).eval()
    raw.eval()
    expected = raw.forward_intermediates(X[..., :96, :128], indices=[0, 3], intermediates_only=True)
    assert all(torch.equal(y, e) for y, e in zip(ours(X[..., :96, :128]), expected, strict=True))


def test_half_precision_files_make_models_of_the_default_precision(model, tmp_path):
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, tmp_path / "w.st")
    backbone = create_feature_backbone("test_resnet", weights=tmp_path / "w.st")
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_checkpoints_from_before_batches_were_counted(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert create_feature_backbone("test_resnet", weights=tmp_path / "old.pth").weights_report.missing == ()


def test_tensors_that_share_memory_do_not_end_up_sharing_it(model, tmp_path):
    state = model.state_dict()
    norms = [k for k in state if k.endswith("bn1.weight") and state[k].shape == state["layer1.0.bn1.weight"].shape]
    assert len(norms) > 1
    torch.save(state | dict.fromkeys(norms, state[norms[0]]), tmp_path / "shared.pth")
    backbone = create_feature_backbone("test_resnet", weights=tmp_path / "shared.pth")
    pointers = [p.data_ptr() for p in backbone.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_training_does_not_write_to_the_file(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    before = path.read_bytes()
    backbone = create_feature_backbone("test_resnet", weights=path)
    sum(y.sum() for y in backbone(X)).backward()
    torch.optim.SGD(backbone.parameters(), lr=1.0).step()
    assert path.read_bytes() == before
    assert not torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)


def test_nan_is_reported(model, tmp_path):
    state = model.state_dict()
    state["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("-inf")
    save_file(state, tmp_path / "weights.safetensors")
    report = create_feature_backbone("test_resnet", weights=tmp_path / "weights.safetensors").weights_report
    assert report.nonfinite == ("conv1.0.weight", "layer1.0.conv1.weight")
    assert "2 nonfinite (first 'conv1.0.weight')" in str(report)


# --- into a model that is there ---


def test_load_weights_into_each_kind_of_model(model, checkpoint):
    features = create_feature_backbone("test_resnet", pretrained=False)
    parameter = features.body.model.conv1[0].weight
    report = load_weights(features, checkpoint)
    assert report is features.weights_report
    assert report.coverage == 1
    assert features.body.model.conv1[0].weight is parameter  # optimizers keep what they hold
    assert torch.equal(parameter, model.conv1[0].weight)
    pooled = create_backbone("test_resnet", pretrained=False)
    assert load_weights(pooled, str(checkpoint)).coverage == 1
    plain = nn.Sequential(timm.create_model("test_resnet"))
    with pytest.raises(WeightsMismatchError):
        load_weights(plain, checkpoint)
    assert load_weights(plain[0], checkpoint).coverage == 1


def test_load_weights_not_strictly(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("layer3.")}
    torch.save(state, tmp_path / "part.pth")
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(WeightsMismatchError, match="missing"):
        load_weights(backbone, tmp_path / "part.pth")
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    report = load_weights(backbone, tmp_path / "part.pth", strict=False)
    assert 0 < report.coverage < 1
    assert all(name.startswith("layer3.") for name in report.missing)
    after = backbone.state_dict()
    assert torch.equal(after["body.model.conv1.0.weight"], model.conv1[0].weight)
    assert torch.equal(after["body.model.layer3.0.conv1.weight"], before["body.model.layer3.0.conv1.weight"])


# --- what cannot be loaded ---


def test_files_that_cannot_be_read(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    for name in ("safetensors", "pth"):
        cut = tmp_path / f"cut.{name}"
        cut.write_bytes((tmp_path / f"whole.{name}").read_bytes()[:5000])
        with pytest.raises(WeightsCorruptedError, match=rf"cut.{name}' .*(damaged|cut off).* again"):
            create_feature_backbone("test_resnet", weights=cut)
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(WeightsCorruptedError, match=r"page.pth' is a web page; fetch the file itself"):
        create_feature_backbone("test_resnet", weights=tmp_path / "page.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(WeightsCorruptedError, match=r"empty.pth' could not be read"):
        create_feature_backbone("test_resnet", weights=tmp_path / "empty.pth")


def test_a_whole_module_is_refused_and_told_why(tmp_path, model):
    torch.save(model, tmp_path / "module.pt")
    with pytest.raises(WeightsCorruptedError, match=r"holds Python objects \(.*\) .*save the state_dict\(\) alone"):
        create_feature_backbone("test_resnet", weights=tmp_path / "module.pt")


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_pickles_cannot_run_code(tmp_path, save):
    save({"a": _Attack(str(tmp_path / "ran"))}, tmp_path / "attack.pth")
    with pytest.raises(WeightsCorruptedError):
        create_feature_backbone("test_resnet", weights=tmp_path / "attack.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_not_there(tmp_path):
    for name in ("absent.pth", "n" * 300 + ".pth"):
        with pytest.raises(WeightsNotFoundError, match=rf"{name}': there is no such file or folder, from"):
            create_feature_backbone("test_resnet", weights=tmp_path / name)
    with pytest.raises(WeightsNotFoundError, match="holds no weights"):
        create_feature_backbone("test_resnet", weights=tmp_path)
    for repo in ("hf-hub:owner/../repo", "hf-hub:../../etc", "hf-hub:resnet50", "hf-hub:owner/repo@"):
        with pytest.raises(WeightsNotFoundError, match="is no Hub repository; write 'hf-hub:owner/repo'"):
            create_feature_backbone("test_resnet", weights=repo)


def test_a_checkpoint_of_something_else(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(WeightsMismatchError) as err:
        create_feature_backbone("resnet18", weights=path)
    assert "missing (first" in str(err.value)
    assert "of another shape or kind (first 'bn1.weight': (32,) for (64,))" in str(err.value)
    assert "Nothing was loaded; check the model name" in str(err.value)
    state = model.state_dict()
    del state["layer1.0.conv1.weight"]
    save_file(_prefixed(state, "net."), path)
    with pytest.raises(WeightsMismatchError) as err:
        create_feature_backbone("test_resnet", weights=path)
    assert "below the prefix 'net.', 1 missing (first 'layer1.0.conv1.weight')" in str(err.value)
    save_file({"something": torch.ones(3)}, path)
    with pytest.raises(WeightsMismatchError, match="1 unexpected"):
        create_feature_backbone("test_resnet", weights=path)
    torch.save({k: v.long() for k, v in model.state_dict().items()}, tmp_path / "integers.pth")
    with pytest.raises(WeightsMismatchError, match="of another shape or kind"):
        create_feature_backbone("test_resnet", weights=tmp_path / "integers.pth")


DEEPER = [
    ("resnet18", "resnet34", {}, {}),
    ("test_vit", "test_vit", {"depth": 1}, {}),
    ("test_vit", "test_vit", {}, {"init_values": 0.1}),
    ("dinov3_convnext_tiny", "convnext_small", {}, {}),
]


@pytest.mark.parametrize(("name", "saved", "extra", "saved_extra"), DEEPER)
@pytest.mark.parametrize("channels", [3, 1])
def test_a_checkpoint_of_a_network_with_more_in_its_layers(tmp_path, name, saved, extra, saved_extra, channels):
    torch.save(timm.create_model(saved, **saved_extra).state_dict(), tmp_path / "more.pth")
    fields = {"extra_kwargs": extra, "in_chans": channels}
    with pytest.raises(WeightsMismatchError, match=r"unexpected \(first '"):
        create_feature_backbone(name, weights=tmp_path / "more.pth", **fields)
    backbone = create_feature_backbone(name, pretrained=False, **fields)
    assert load_weights(backbone, tmp_path / "more.pth", strict=False).unexpected


def test_constants_that_libraries_once_stored(tmp_path):
    """timm's Swin had its tables in checkpoints; timm takes those, so they are no other architecture's."""
    name = "swin_tiny_patch4_window7_224"
    state = timm.create_model(name).state_dict()
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"model": state}, tmp_path / "swin.pth")
    report = create_feature_backbone(name, weights=tmp_path / "swin.pth").weights_report
    assert report.coverage == 1
    assert report.unexpected == ()


def test_a_choice_that_is_not_ours(model, tmp_path):
    state = model.state_dict()
    torch.save(_prefixed(state, "rgb.") | _prefixed(_noise(state), "depth."), tmp_path / "two.pth")
    with pytest.raises(WeightsMismatchError, match=r"several networks that fit equally well .*'rgb.'.*'depth.'"):
        create_feature_backbone("test_resnet", weights=tmp_path / "two.pth")
    torch.save({"model": _noise(state), "net": state}, tmp_path / "two.pth")
    with pytest.raises(WeightsMismatchError, match="several networks that fit equally well"):
        create_feature_backbone("test_resnet", weights=tmp_path / "two.pth")
    torch.save(_prefixed(state, "backbone.") | _prefixed(state, "model.0."), tmp_path / "twice.pth")
    report = create_feature_backbone("test_resnet", weights=tmp_path / "twice.pth").weights_report
    assert report.prefix == "model.0."
    torch.save({"exp_avg": _noise(state), "model": state}, tmp_path / "optimizer.pth")
    assert create_feature_backbone("test_resnet", weights=tmp_path / "optimizer.pth").weights_report.entry == "model"


@pytest.mark.parametrize(
    ("name", "saved", "fields"), [("test_resnet", {}, {"in_chans": 1}), ("test_vit", {}, {"img_size": 224})]
)
def test_a_classifier_survives_conversion(tmp_path, name, saved, fields):
    trained = create_backbone(name, pretrained=False, num_classes=5, **saved)
    save_file(trained.state_dict(), tmp_path / "own.safetensors")
    again = create_backbone(name, weights=tmp_path / "own.safetensors", num_classes=5, **fields)
    head = trained.get_classifier().weight
    assert torch.equal(again.get_classifier().weight, head)
    assert again.autobackbone.weights_report.coverage == 1
    assert again.autobackbone.weights_report.converted
    other = create_backbone(name, weights=tmp_path / "own.safetensors", num_classes=4, **fields)
    assert set(other.autobackbone.weights_report.missing) == {
        n for n in other.state_dict() if n.startswith(("fc.", "head."))
    }


def test_threads_and_what_the_user_allowed(model, tmp_path):
    """What may be unpickled is known to the whole process: threads do not disturb each other, nor us the user."""
    path = tmp_path / "namespace.pth"
    torch.save({"state_dict": model.state_dict(), "args": argparse.Namespace(lr=0.1), "best": np.uint8(3)}, path)
    torch.serialization.add_safe_globals([argparse.Namespace])
    before = set(torch.serialization.get_safe_globals())
    try:
        with ThreadPoolExecutor(4) as pool:
            made = pool.map(lambda _: create_feature_backbone("test_resnet", weights=path, in_chans=1), range(12))
            assert all(backbone.autobackbone.weights_report.coverage == 1 for backbone in made)
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before - {argparse.Namespace}))
    assert logging.getLogger("timm.models._builder").filters == []


def test_overlapping_tensors_do_not_end_up_sharing_memory(model, tmp_path):
    state = model.state_dict()
    buffer = torch.rand(1000)
    count = state["bn1.weight"].numel()
    state["bn1.weight"], state["bn1.bias"] = buffer[:count], buffer[1 : count + 1]
    torch.save(state, tmp_path / "overlap.pth")
    bn = create_feature_backbone("test_resnet", weights=tmp_path / "overlap.pth").body.model.bn1
    with torch.no_grad():
        bn.weight.fill_(7)
    assert torch.equal(bn.bias, buffer[1 : count + 1])


def test_infinity_that_a_smaller_type_makes_is_reported(model, tmp_path):
    state = {k: v.double() * 1e300 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "large.pth")
    assert create_feature_backbone("test_resnet", weights=tmp_path / "large.pth").weights_report.nonfinite


def test_what_load_weights_cannot_take(model, tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    for wrong in (None, 5, model.state_dict()):
        with pytest.raises(ConfigError, match=r"load_weights\(\) takes a path"):
            load_weights(backbone, wrong)
    with pytest.raises(WeightsNotFoundError, match="names nothing"):
        load_weights(backbone, "")
    with pytest.raises(WeightsNotFoundError, match="is no address"):
        load_weights(backbone, "https://[")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="on the meta device can hold no weights"):
        load_weights(timm.create_model("test_resnet").to("meta"), tmp_path / "w.pth")
    assert load_weights(torch.compile(backbone), tmp_path / "w.pth").coverage == 1
    eight = {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(eight, tmp_path / "eight.safetensors")
    assert load_weights(backbone, tmp_path / "eight.safetensors").nonfinite == ()


ODD = {
    "bytes.pth": b"hello",
    "list.pth": [1, 2],
    "nothing.pth": {},
    "numbered.pth": {0: torch.zeros(1)},
    "numbers.pth": {"state_dict": {"a": 1}},
    "sparse.pth": {"a": torch.zeros(2, 2).to_sparse()},
    "meta.pth": {"a": torch.zeros(1, device="meta")},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_checkpoints(tmp_path, name):
    if isinstance(ODD[name], bytes):
        (tmp_path / name).write_bytes(ODD[name])
    else:
        torch.save(ODD[name], tmp_path / name)
    with pytest.raises(WeightsCorruptedError, match=name):
        create_feature_backbone("test_resnet", weights=tmp_path / name)


# --- folders ---


def test_a_folder_of_weights(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save(_noise(model.state_dict()), tmp_path / "pytorch_model.bin")
    backbone = create_feature_backbone("test_resnet", weights=tmp_path)
    assert torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)


def test_a_folder_of_shards(tmp_path, model):
    state = model.state_dict()
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(str(index).replace("'", '"'))
    assert create_feature_backbone("test_resnet", weights=tmp_path).weights_report.coverage == 1
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.bin"}}')
    with pytest.raises(WeightsCorruptedError, match="names files outside its folder"):
        create_feature_backbone("test_resnet", weights=tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "absent.safetensors"}}')
    with pytest.raises(WeightsNotFoundError, match=r"lacks 1 of its shards \(first 'absent.safetensors'\)"):
        create_feature_backbone("test_resnet", weights=tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": 5}}')
    with pytest.raises(WeightsCorruptedError, match="index of shards"):
        create_feature_backbone("test_resnet", weights=tmp_path)


def test_a_folder_of_several_checkpoints(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "best.pth")
    assert create_feature_backbone("test_resnet", weights=tmp_path).weights_report.coverage == 1
    torch.save(model.state_dict(), tmp_path / "last.pth")
    with pytest.raises(WeightsNotFoundError, match=r"holds 2 .pth files; name the one that you mean"):
        create_feature_backbone("test_resnet", weights=tmp_path)
