"""Prefix tokens: those that timm and transformers give on the same weights, beside the same maps."""

import pytest
import torch
from families import DINOV3_FAMILIES, FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from autobackbone import InputError, UnsupportedError, create_feature_backbone, optimize_for_inference

TRANSFORMERS = {
    "test_vit": {"class": 1},
    "test_vit3": {"register": 1},
    "deit_tiny_distilled_patch16_224": {"class": 1, "distillation": 1},
    "vit_tiny_patch16_dinov3_qkvb": {"class": 1, "register": 4},
    "vit_small_patch14_reg4_dinov2": {"class": 1, "register": 4},
    "beit_base_patch16_224": {"class": 1},
    "vit_relpos_small_patch16_224": {},
    "tnt_s_legacy_patch16_224": {"class": 1},
    "naflexvit_base_patch16_gap": {"register": 4},
    "naflexvit_base_patch16_map": {"register": 1},
    "swin_tiny_patch4_window7_224": {},
    "resnet18": {},
    "dinov3_vits16": {"class": 1, "register": 4},
    "dinov3_convnext_tiny": {},
}
_SMALL = {name: {"depth": 3} for name in TRANSFORMERS if name.startswith(("beit", "vit_", "naflex"))}


def create(name, **kwargs):
    torch.manual_seed(0)
    extra = _SMALL.get(name, {})
    backbone = create_feature_backbone(name, pretrained=False, extra_kwargs=extra, **kwargs).eval()
    for parameter in backbone.parameters():  # tokens that are zeros as new would hide a mix-up
        if parameter.ndim == 3 and parameter.shape[0] == 1:
            nn.init.normal_(parameter)
    return backbone


@pytest.mark.parametrize(("name", "counts"), TRANSFORMERS.items())
def test_they_are_known_beforehand(name, counts):
    with torch.device("meta"):
        backbone = create_feature_backbone(name, pretrained=False, extra_kwargs=_SMALL.get(name, {}))
    assert backbone.prefix_tokens == counts


@pytest.mark.parametrize("name", [name for name, counts in TRANSFORMERS.items() if not counts])
def test_there_are_none(name):
    backbone = create(name)
    with pytest.raises(UnsupportedError, match=f"'{name}' has no prefix tokens"):
        backbone.forward_tokens(torch.randn(1, 3, *backbone.input_spec.size))


@pytest.mark.parametrize(
    "name", [name for name, counts in TRANSFORMERS.items() if counts and "dinov3_vits" not in name]
)
@torch.inference_mode()
def test_they_are_those_of_timm(name):
    backbone = create(name, out_indices=(0, 2))
    x = torch.randn(2, 3, *backbone.input_spec.size)
    theirs = backbone.network.forward_intermediates(
        x, indices=[0, 2], return_prefix_tokens=True, norm=backbone.config.norm or False, intermediates_only=True
    )
    levels = backbone.forward_tokens(x)
    for (y, prefix), (e, tokens), same in zip(levels, theirs, backbone(x), strict=True):
        assert torch.equal(y, e)
        assert torch.equal(y, same)
        assert torch.equal(torch.cat(list(prefix.values()), dim=1), tokens)
        assert {kind: t.shape[1] for kind, t in prefix.items()} == TRANSFORMERS[name]


@torch.inference_mode()
def test_they_are_those_of_transformers():
    backbone = create("dinov3_vits16", out_indices=(5, 11))
    model = DINOv3ViTModel(DINOv3ViTConfig(**backbone.network.embeddings.config.to_dict())).eval()
    state = {name: value for name, value in backbone.network.state_dict().items() if "mask_token" not in name}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if "mask_token" not in name]
    x = torch.randn(2, 3, 224, 224)
    *_, last = backbone.forward_tokens(x)
    expected = model(x).last_hidden_state
    assert torch.equal(last.prefix["class"], expected[:, :1])
    assert torch.equal(last.prefix["register"], expected[:, 1:5])
    assert torch.equal(last.map.flatten(2).transpose(1, 2), expected[:, 5:])


@pytest.fixture(
    scope="module", params=["vit_tiny_patch16_dinov3_qkvb", "dinov3_vits16", "deit_tiny_distilled_patch16_224"]
)
def backbone(request):
    return create(request.param)


@settings(max_examples=30)
@given(height=st.integers(33, 90), width=st.integers(33, 90), batch=st.integers(1, 3))
@torch.inference_mode()
def test_any_size(backbone, height, width, batch):
    x = torch.randn(batch, 3, height, width)
    maps = backbone(x)
    levels = backbone.forward_tokens(x)
    padded = torch.nn.functional.pad(x, (0, -width % 16, 0, -height % 16))
    for level, e, whole in zip(levels, maps, backbone.forward_tokens(padded), strict=True):
        assert torch.equal(level.map, e)
        for kind, count in backbone.prefix_tokens.items():
            assert level.prefix[kind].shape == (batch, count, level.map.shape[1])
            torch.testing.assert_close(level.prefix[kind], whole.prefix[kind])


def test_compiled_and_exported(backbone):
    x = torch.randn(2, 3, 224, 224)
    torch.compiler.reset()

    class WithTokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, x):
            return self.backbone.forward_tokens(x)

    with torch.no_grad():
        compiled = torch.compile(backbone.forward_tokens, fullgraph=True, backend="eager")(x)
        exported = torch.export.export(WithTokens(), (x,)).module()(x)
        for a, b, e in zip(compiled, exported, backbone.forward_tokens(x), strict=True):
            torch.testing.assert_close(a.map, e.map)
            torch.testing.assert_close(b.map, e.map)
            for kind, tokens in e.prefix.items():
                torch.testing.assert_close(a.prefix[kind], tokens)
                torch.testing.assert_close(b.prefix[kind], tokens)


def test_gradients_and_checkpointing(backbone):
    x = torch.randn(1, 3, 64, 64)
    grads = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        sum(t.square().mean() for level in backbone.forward_tokens(x) for t in level.prefix.values()).backward()
        grads.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
    backbone.set_grad_checkpointing(enable=False)
    assert any("token" in name for name in grads[0])
    torch.testing.assert_close(grads[1], grads[0])


@torch.inference_mode()
def test_optimized_for_inference(backbone):
    fast = optimize_for_inference(backbone)
    x = torch.randn(1, 3, 97, 130)
    for level, e in zip(fast.forward_tokens(x), backbone.forward_tokens(x), strict=True):
        torch.testing.assert_close(level.map, e.map, atol=1e-3, rtol=1e-3)
        for kind, tokens in e.prefix.items():
            torch.testing.assert_close(level.prefix[kind], tokens, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (16,)])
@pytest.mark.parametrize("pyramid", ["simple", "resample"])
@torch.inference_mode()
def test_levels_of_a_pyramid_have_those_of_their_block(strides, pyramid):
    backbone = create("test_vit", out_strides=strides, pyramid=pyramid)
    x = torch.randn(1, 3, 97, 130)
    indices = sorted({level.index for level in backbone.levels})
    plain = create("test_vit", out_indices=indices)
    plain.network.load_state_dict(backbone.network.state_dict())
    of_block = dict(zip(indices, plain.forward_tokens(x), strict=True))
    for level, y, e in zip(backbone.levels, backbone.forward_tokens(x), backbone(x), strict=True):
        assert torch.equal(y.map, e)
        torch.testing.assert_close(y.prefix["class"], of_block[level.index].prefix["class"])


@pytest.mark.parametrize("x", [torch.zeros(1, 4, 64, 64), torch.zeros(3, 64, 64), torch.zeros(1, 3, 64, 64).int()])
def test_images_are_checked(backbone, x):
    with pytest.raises(InputError):
        backbone.forward_tokens(x)


@pytest.mark.families
@pytest.mark.parametrize("family", FAMILIES + DINOV3_FAMILIES, ids=str)
@torch.inference_mode()
def test_every_family_has_them_or_says_so(family):
    backbone = create_feature_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs).eval()
    spec = backbone.input_spec
    x = torch.randn(1, 3, *(spec.size if spec.fixed_size else family.size))
    if not backbone.prefix_tokens:
        with pytest.raises(UnsupportedError):
            backbone.forward_tokens(x)
        return
    for level, e in zip(backbone.forward_tokens(x), backbone(x), strict=True):
        assert torch.equal(level.map, e)
        assert {kind: t.shape[1] for kind, t in level.prefix.items()} == backbone.prefix_tokens
