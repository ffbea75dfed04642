"""Checkpoints that once were loaded wrong, or as another's: codes, kinds of numbers, several networks, deeper ones."""

import logging
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from autobackbone import WeightsMismatchError, create_backbone, create_feature_backbone, load_weights

NAME = "test_vit"


def _state(name=NAME, seed=1, **arguments):
    torch.manual_seed(seed)
    return timm.create_model(name, **arguments).state_dict()


def _prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def _file(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return path


_BACKBONES: dict[str, tuple[nn.Module, dict[str, torch.Tensor]]] = {}


def _refused(path, match, name=NAME, *, strict=True, **fields):
    """Refused by a backbone, which stays as it was."""
    key = f"{name} {fields}"
    if key not in _BACKBONES:
        backbone = create_feature_backbone(name, pretrained=False, **fields)
        _BACKBONES[key] = backbone, {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone, before = _BACKBONES[key]
    with pytest.raises(WeightsMismatchError, match=match):
        load_weights(backbone, path, strict=strict)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


# --- codes are no weights ---

SCALES = ["weight_scale", "weight_scale_inv", "weight.absmax", "weight_zero_point", "SCB", "input_scale", "scale"]
CODES = [torch.float8_e4m3fn, torch.int8, torch.uint8]
QKV = "blocks.0.attn.qkv."


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("dtype", "converted"), [(d, False) for d in CODES] + [(torch.float8_e5m2, True)])
def test_codes_with_a_scale(tmp_path, scale, dtype, converted):
    state = _state()
    state[f"{QKV}weight"] = (state[f"{QKV}weight"] * 100).to(dtype)
    state[f"{QKV}{scale}"] = torch.tensor([0.01])
    path = _file(tmp_path, _prefixed(state, "model."))
    fields = {"img_size": (96, 64)} if converted else {}
    for strict in (True, False):
        _refused(path, "quantized format", strict=strict, **fields)


@pytest.mark.parametrize("create", [create_feature_backbone, create_backbone])
def test_codes_at_creation(tmp_path, create):
    state = _state()
    codes = {f"{QKV}weight": (state[f"{QKV}weight"] * 100).to(torch.int8), f"{QKV}weight_scale": torch.ones(1)}
    with pytest.raises(WeightsMismatchError, match="quantized format"):
        create(NAME, weights=_file(tmp_path, state | codes))


def test_codes_without_a_scale_and_numbers_with_one(tmp_path):
    state = _state()
    codes = state | {f"{QKV}weight": (state[f"{QKV}weight"] * 100).to(torch.int8)}
    _refused(_file(tmp_path, codes), "quantized format: 'blocks.0.attn.qkv.weight' holds torch.int8 codes")
    scaled = state | {f"{QKV}weight_scale": torch.ones(1)}
    _refused(_file(tmp_path, scaled), "quantized format")
    with warnings.catch_warnings(action="ignore"):  # torch is to drop these types
        quantized = torch.quantize_per_tensor(state[f"{QKV}weight"], 0.1, 0, torch.qint8)
        _refused(_file(tmp_path, state | {f"{QKV}weight": quantized}), "quantized format")


@pytest.mark.parametrize("extra", ["weight_g", "weight_mask", "weight_orig", "bias_mask", "lora_A.weight"])
def test_what_is_more_than_a_name_of_the_model(tmp_path, extra):
    """A name is known if it is one, not if it begins with one."""
    _refused(_file(tmp_path, _state() | {f"{QKV}{extra}": torch.ones(3)}), rf"1 unexpected \(first '{QKV}{extra}'\)")


def test_names_of_layers_that_were_cut_off_are_known_exactly(tmp_path):
    for name, deep in ((NAME, "blocks.5.norm1.weight"), ("dinov3_vits16", "model.layer.11.norm1.weight")):
        fields = {"out_indices": (1,), "pretrained": False}
        state = create_feature_backbone(name, **fields).body.state_dict()
        path = _file(tmp_path, state | {f"model.{deep}" if name == NAME else deep: torch.ones(1)})
        fields["pretrained"] = True
        assert create_feature_backbone(name, weights=path, **fields).weights_report.unexpected == ()
        path = _file(tmp_path, state | {f"model.{deep}_v" if name == NAME else f"{deep}_v": torch.ones(1)})
        with pytest.raises(WeightsMismatchError, match="1 unexpected"):
            create_feature_backbone(name, weights=path, **fields)


# --- kinds of numbers ---


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.complex64, torch.bool])
@pytest.mark.parametrize("fields", [{}, {"in_chans": 1}])
def test_numbers_of_another_kind_are_not_converted(tmp_path, kind, fields):
    state = _state("test_resnet")
    for name in ("conv1.0.weight", "layer1.0.conv1.weight"):
        changed = state | {name: (state[name] * 50).to(kind)}
        _refused(_file(tmp_path, changed), "kind|quantized|missing", "test_resnet", **fields)


@pytest.mark.parametrize("fields", [{}, {"in_chans": 1}])
def test_a_counter_that_is_no_integer(tmp_path, fields):
    state = _state("test_resnet") | {"bn1.num_batches_tracked": torch.tensor(2.5)}
    _refused(_file(tmp_path, state), "another shape or kind", "test_resnet", **fields)


def test_kinds_in_published_weights(tmp_path):
    state = _state("test_resnet")
    save_file(state | {"conv1.0.weight": (state["conv1.0.weight"] * 50).to(torch.int8)}, tmp_path / "codes.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "codes.safetensors")}}
    with pytest.raises(WeightsMismatchError, match=r"'conv1.0.weight' is torch.int8 .* torch.float32 .* is needed"):
        create_feature_backbone("test_resnet", extra_kwargs=overlay)


# --- a larger network's ---

LOGS = {
    "disabled": lambda log: setattr(log, "disabled", True),
    "at ERROR": lambda log: log.setLevel(logging.ERROR),
    "off": lambda _: logging.disable(),
}


@pytest.mark.parametrize("silence", LOGS)
def test_a_deeper_network_whatever_is_logged(tmp_path, silence):
    path = _file(tmp_path, timm.create_model("resnet34").state_dict())
    log = logging.getLogger("timm.models._builder")
    before = log.disabled, log.level
    try:
        LOGS[silence](log)
        _refused(path, "unexpected", "resnet18", in_chans=1)
    finally:
        logging.disable(logging.NOTSET)
        log.disabled = before[0]
        log.setLevel(before[1])


def test_tokens_that_the_model_is_without(tmp_path):
    path = _file(tmp_path, _state(reg_tokens=4))
    _refused(path, r"unexpected \(first 'reg_token'\)")
    path = _file(tmp_path, _state() | {"reg_token": torch.zeros(1, 4, 64)})
    _refused(path, r"unexpected \(first 'reg_token'\)", img_size=(96, 64))
    path = _file(tmp_path, _state() | {"pos_embed": torch.zeros(1, 5, 64)})
    _refused(path, r"unexpected \(first 'pos_embed'\)", extra_kwargs={"pos_embed": "none"})
    # what stands beside a network is none of its tokens
    path = _file(tmp_path, _prefixed(_state(), "backbone.") | {"reg_token": torch.zeros(4), "queue": torch.zeros(9)})
    assert create_feature_backbone(NAME, weights=path).weights_report.unexpected == ("reg_token", "queue")


# --- several networks ---


def _dinov3(seed, source):
    torch.manual_seed(seed)
    if source == "timm":
        return timm.create_model("vit_small_patch16_dinov3", depth=2, num_classes=0).state_dict()
    extra = {"extra_kwargs": {"num_hidden_layers": 2}}
    state = create_backbone("dinov3_vits16", pretrained=False, **extra).state_dict()
    return state if source == "ours" else {k.removeprefix("model."): v for k, v in state.items()}


@pytest.mark.parametrize("source", ["timm", "ours", "published"])
@pytest.mark.parametrize("wrap", ["prefixes", "entries", "three"])
def test_two_networks_of_another_librarys_names(tmp_path, source, wrap):
    rgb, depth = _dinov3(1, source), _dinov3(2, source)
    contents = {
        "prefixes": _prefixed(rgb, "backbone_rgb.") | _prefixed(depth, "backbone_depth."),
        "entries": {"rgb": _prefixed(rgb, "model."), "depth": _prefixed(depth, "model.")},
        "three": _prefixed(rgb, "online.") | _prefixed(rgb, "alias.") | _prefixed(depth, "target."),
    }
    path = _file(tmp_path, contents[wrap])
    _refused(path, "several networks", "dinov3_vits16", extra_kwargs={"num_hidden_layers": 2})
    _refused(path, "several networks", "vit_small_patch16_dinov3", extra_kwargs={"depth": 2})


@pytest.mark.parametrize("places", [("online.", "alias.", "target."), ("target.", "online.", "alias.")])
@pytest.mark.parametrize("as_entries", [False, True])
def test_aliases_and_a_third(tmp_path, places, as_entries):
    states = dict(zip(places, (_state(seed=1), _state(seed=1), _state(seed=2)), strict=True))
    flat = {k: v for place, state in states.items() for k, v in _prefixed(state, place).items()}
    path = _file(tmp_path, {p.strip("."): s for p, s in states.items()} if as_entries else flat)
    _refused(path, "several networks")
    _refused(path, "several networks", img_size=(96, 64))


def test_one_network_under_many_names_is_one(tmp_path):
    state = _state()
    nan = state | {"norm.bias": torch.full_like(state["norm.bias"], float("nan"))}
    content = {"a": nan, "b": _prefixed({k: v.clone() for k, v in nan.items()}, "module.")} | _prefixed(nan, "c.")
    report = create_feature_backbone(NAME, weights=_file(tmp_path, content)).weights_report
    assert report.coverage == 1


AVERAGES = ["model_ema", "state_dict_ema", "ema.module", "model_avg", "averaged_model", "swa_model", "teacher"]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("with_counters", [False, True])
def test_averages_come_first_whatever_is_counted(tmp_path, average, with_counters):
    raw, ema = _state("test_resnet", 1), _state("test_resnet", 2)
    if not with_counters:
        ema = {k: v for k, v in ema.items() if not k.endswith("num_batches_tracked")}
    entry, _, prefix = average.partition(".")
    path = _file(tmp_path, {"model": raw, entry: _prefixed(ema, f"{prefix}." if prefix else "")})
    backbone = create_feature_backbone("test_resnet", weights=path)
    assert backbone.weights_report.entry == entry
    assert torch.equal(backbone.body.model.conv1[0].weight, ema["conv1.0.weight"])


@pytest.mark.parametrize("start", ["init_state", "initial", "model_init", "exp_avg", "momentum_buffer"])
def test_what_training_started_from_comes_last(tmp_path, start):
    raw, first = _state("test_resnet", 1), _state("test_resnet", 2)
    raw = {k: v for k, v in raw.items() if not k.endswith("num_batches_tracked")}
    backbone = create_feature_backbone("test_resnet", weights=_file(tmp_path, {start: first, "model": raw}))
    assert backbone.weights_report.entry == "model"
    assert torch.equal(backbone.body.model.conv1[0].weight, raw["conv1.0.weight"])


# --- what is told ---


def test_a_new_head_is_told_whatever_the_config_says_of_heads(tmp_path):
    save_file(_state("test_resnet"), tmp_path / "w.safetensors")
    for classifier in (None, "", (), "fc"):
        overlay = {"file": str(tmp_path / "w.safetensors"), "classifier": classifier}
        extra = {"pretrained_cfg_overlay": overlay}
        model = create_backbone("test_resnet", num_classes=5, extra_kwargs=extra)
        report = model.autobackbone.weights_report
        sizes = {name: value.numel() for name, value in model.state_dict().items()}
        assert report.missing == ("fc.weight", "fc.bias")
        assert report.total == sum(sizes.values())
        assert report.loaded == report.total - sizes["fc.weight"] - sizes["fc.bias"]
        assert report.coverage < 1


@pytest.mark.parametrize("head", [5, 1000])
def test_what_is_counted_with_a_head(tmp_path, head):
    path = _file(tmp_path, _state("test_resnet", num_classes=5))
    model = create_backbone("test_resnet", weights=path, num_classes=head)
    report = model.autobackbone.weights_report
    fc = sum(p.numel() for p in model.fc.parameters())
    assert report.total == sum(t.numel() for t in model.state_dict().values())
    assert report.loaded == report.total - (0 if head == 5 else fc)
    assert report.missing == (() if head == 5 else ("fc.weight", "fc.bias"))


def test_a_stem_that_cannot_be_adapted_is_refused(tmp_path):
    """timm leaves it random, with a warning."""
    name = "naflexvit_base_patch16_gap"
    save_file(_state(name, depth=1), tmp_path / "w.safetensors")
    extra = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors")}, "depth": 1}
    assert create_feature_backbone(name, extra_kwargs=extra).weights_report.coverage == 1
    with pytest.raises(WeightsMismatchError, match=r"'embeds.proj.weight' is .*Nothing was loaded"):
        create_feature_backbone(name, in_chans=1, extra_kwargs=extra)


@pytest.mark.parametrize("where", ["local-dir", "registry"])
def test_tensors_in_the_overlay_come_before_any_file(tmp_path, where):
    ours, theirs = _state("test_resnet", 1), _state("test_resnet", 2)
    save_file(theirs, tmp_path / "model.safetensors")
    name, overlay = "test_resnet", {"state_dict": ours}
    if where == "local-dir":
        cfg = '{"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": {"num_classes": 1000}}'
        (tmp_path / "config.json").write_text(cfg)
        name = f"local-dir:{tmp_path}"
    else:
        overlay["file"] = str(tmp_path / "model.safetensors")
    extra = {"pretrained_cfg_overlay": overlay}
    for backbone in (create_feature_backbone(name, extra_kwargs=extra), create_backbone(name, extra_kwargs=extra)):
        network = backbone if isinstance(backbone, nn.Module) and hasattr(backbone, "conv1") else backbone.body.model
        assert backbone.autobackbone.weights_report.origin == "state_dict"
        assert torch.equal(network.conv1[0].weight, ours["conv1.0.weight"])
