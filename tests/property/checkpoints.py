"""Checkpoints as they come: one network or several, wrapped, prefixed, cast, with tensors too many or too few."""

import functools

import timm
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from autobackbone import FeatureBackbone, create_feature_backbone

# Name, arguments, input channels, and the stem that a checkpoint of three has to be converted for.
ARCHITECTURES = [
    ("test_resnet", {}, 3, ""),
    ("test_vit", {}, 3, ""),
    ("test_convnext", {}, 3, ""),
    ("test_efficientnet", {}, 3, ""),
    ("vit_small_patch16_dinov3", {"depth": 1}, 3, ""),
    ("dinov3_vits16", {"num_hidden_layers": 1}, 3, ""),
    ("test_resnet", {}, 1, "conv1.0.weight"),
    ("test_vit", {}, 4, "patch_embed.proj.weight"),
    ("dinov3_vits16", {"num_hidden_layers": 1}, 2, "embeddings.patch_embeddings.weight"),
]
ENTRIES = ("", "state_dict", "model", "net.weights", "checkpoint.state_dict")
PREFIXES = ("", "module.", "_orig_mod.module.", "backbone.", "model.encoder.", "a.b.c.")
OTHERS = ("rgb.", "depth.", "online.", "branch2.net.")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
KINDS = (torch.int8, torch.uint8, torch.int64, torch.complex64, torch.bool)


class Checkpoint:
    """What is in a file, what it holds for a model, and what must become of it.

    Attributes
    ----------
    content
        What is saved.
    values
        By the model's names, what each tensor is to be after loading.
    unexpected
        Names that the model has no place for, as a report has them.
    fault
        Why it must be refused; empty if it must not.
    strict
        How it is loaded.
    told
        What it is, for whoever reads of a failure.
    """

    def __init__(self, values: dict[str, Tensor], *, strict: bool) -> None:
        self.content = {}
        self.values = values
        self.unexpected = set()
        self.fault = ""
        self.strict = strict
        self.told = ""

    def __repr__(self) -> str:
        return f"<{self.told}, strict={self.strict}, fault={self.fault!r}, unexpected={self.unexpected}>"


@functools.cache
def target(index: int) -> tuple[FeatureBackbone, nn.Module, dict[str, Tensor]]:
    """Return a backbone to load, the network in it, and what its tensors are before."""
    name, extra, channels, _ = ARCHITECTURES[index]
    backbone = create_feature_backbone(name, pretrained=False, extra_kwargs=extra, in_chans=channels)
    network = getattr(backbone.body, "model", None) if hasattr(backbone.body, "native_maps") else None
    network = network if hasattr(network, "forward_intermediates") else backbone.body
    return backbone, network, {k: v.clone() for k, v in network.state_dict().items()}


@functools.cache
def trained(index: int, seed: int) -> dict[str, Tensor]:
    """Return a state dict for three channels in the library's own names, with numbers everywhere."""
    torch.manual_seed(seed)
    name, extra, _, _ = ARCHITECTURES[index]
    if name == "dinov3_vits16":
        shapes = create_feature_backbone(name, pretrained=False, extra_kwargs=extra).body.state_dict()
    else:
        shapes = timm.create_model(name, **extra).state_dict()
    return {k: torch.randn_like(v) if v.is_floating_point() else torch.full_like(v, seed) for k, v in shapes.items()}


@st.composite
def checkpoints(draw):
    """Draw an architecture and a checkpoint for it."""
    index = draw(st.sampled_from(range(len(ARCHITECTURES))))
    own = target(index)[2]
    dtype = draw(st.sampled_from(DTYPES))
    entry, prefix = draw(st.sampled_from(ENTRIES)), draw(st.sampled_from(PREFIXES))
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in trained(index, 1).items()}
    found = Checkpoint({k: v for k, v in state.items() if k in own}, strict=draw(st.booleans()))
    *_, channels, stem = ARCHITECTURES[index]
    if stem:
        found.values[stem] = timm.models.adapt_input_conv(channels, state[stem].clone())
    change = draw(st.sampled_from(sorted(CHANGES)))
    if stem and draw(st.booleans()):  # as it is for these channels
        state = state | {stem: found.values[stem].to(dtype)}
    state = {f"{prefix}{k}": v for k, v in CHANGES[change](draw, state, own, found).items()}
    if draw(st.booleans()):
        state = {key: state[key] for key in draw(st.permutations(sorted(state)))}
    place = found.content
    for key in entry.split(".") if entry else ():
        place = place.setdefault(key, {})
    place.update(state)
    if draw(st.booleans()):
        found.content |= {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": []}}
    if draw(st.integers(0, 4)) == 0:
        change = _add_average(draw, index, dtype, found)
    else:
        _add_another(draw, index, dtype, place, prefix, found)
    found.told = f"{ARCHITECTURES[index][0]} of {dtype} in {entry!r} below {prefix!r}"
    return index, change, found


def _add_another(draw, index, dtype, place, prefix, found):
    """Put a network beside: the same one, which is no choice, or one of other values, which is one too many."""
    kind = draw(st.sampled_from(["none", "none", "none", "same", "other"]))
    if kind == "none" or found.fault or not found.strict or prefix == "":
        return
    seed = 1 if kind == "same" else 2
    values = trained(index, seed)
    other = draw(st.sampled_from(OTHERS))
    place.update({f"{other}{k}": v.to(dtype) if v.is_floating_point() else v for k, v in values.items()})
    if kind == "other":
        found.fault = "several networks"
    else:
        found.unexpected = None  # which of the two is told of depends on which was taken


def _add_average(draw, index, dtype, found):
    """Put averaged weights beside, which are what is loaded, whatever is wrong with the others."""
    entry = draw(st.sampled_from(["model_ema", "teacher", "swa_model", "ema.state_dict"]))
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in trained(index, 2).items()}
    place = found.content
    for key in entry.split("."):
        place = place.setdefault(key, {})
    place.update(state)
    found.values = {k: v for k, v in state.items() if k in target(index)[2]}
    *_, channels, stem = ARCHITECTURES[index]
    if stem:
        found.values[stem] = timm.models.adapt_input_conv(channels, state[stem].clone())
    found.fault = ""
    found.unexpected = set()
    return "nothing"


def _nothing(_draw, state, _own, _found):
    return state


def _removed(draw, state, own, found):
    names = draw(st.lists(st.sampled_from(sorted(own)), min_size=1, max_size=3, unique=True))
    for name in names:
        del found.values[name]
    if any(not name.endswith("num_batches_tracked") for name in names):
        found.fault = "missing"
    return {k: v for k, v in state.items() if k not in names}


def _reshaped(draw, state, own, found):
    name = draw(st.sampled_from(sorted(own)))
    del found.values[name]
    found.fault = "another shape"
    return state | {name: torch.randn(*state[name].shape, 2)}


def _of_another_kind(draw, state, own, found):
    name = draw(st.sampled_from(sorted(k for k, v in own.items() if v.is_floating_point() and v.ndim > 0)))
    del found.values[name]
    found.fault = "kind|quantized"
    return state | {name: (state[name].float() * 100).to(draw(st.sampled_from(KINDS)))}


def _float_counter(draw, state, own, found):
    counters = sorted(k for k, v in own.items() if not v.is_floating_point())
    if not counters:
        return state
    name = draw(st.sampled_from(counters))
    del found.values[name]
    found.fault = "kind"
    return state | {name: torch.tensor(2.5)}


def _scaled(draw, state, own, found):
    name = draw(st.sampled_from(sorted(k for k in own if k.endswith(".weight"))))
    suffix = draw(st.sampled_from(["_scale", "_scale_inv", "_zero_point", ".absmax"]))
    found.fault = "quantized"
    found.strict = True
    return state | {f"{name}{suffix}": torch.ones(1)}


def _larger(draw, state, own, found):
    layer = draw(st.sampled_from(sorted(k for k in own if k.count(".") > 1))).rpartition(".")[0]
    names = [f"{layer}.{name}" for name in ("gamma", "weight_g", "extra.bias", "weight2")]
    name = draw(st.sampled_from([name for name in names if name not in own]))  # some layers have a gamma
    found.unexpected = {name}
    found.fault = "unexpected"
    return state | {name: torch.ones(2)}


def _besides(draw, state, _own, found):
    names = draw(st.lists(st.sampled_from(["queue", "logits.weight", "decoder.0.bias"]), min_size=1, unique=True))
    found.unexpected = set(names)
    return state | {name: torch.ones(2) for name in names}


CHANGES = {
    "nothing": _nothing,
    "removed": _removed,
    "reshaped": _reshaped,
    "of another kind": _of_another_kind,
    "a float counter": _float_counter,
    "scaled": _scaled,
    "a larger network": _larger,
    "more besides": _besides,
}
