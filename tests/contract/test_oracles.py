"""Oracles from elsewhere: raw timm on the same weights, bit for bit."""

import pytest
import timm
import torch
from families import FAMILIES, Family, spread
from torch import nn

from autobackbone import UnsupportedError, create_feature_backbone
from autobackbone.levels import ceil_div, round_up
from autobackbone.sources.meta import FAILURES


@pytest.mark.parametrize("family", spread(FAMILIES))
def test_equal_to_raw_timm(family):
    """At a size that needs no padding, the maps are timm's, bit for bit."""
    raw = timm.create_model(family.name, features_only=True, **family.extra_kwargs).eval()
    indices = tuple(i % len(raw.feature_info) for i in raw.feature_info.out_indices)
    ours = create_feature_backbone(
        family.name, pretrained=False, extra_kwargs=family.extra_kwargs, out_indices=indices, norm=None
    ).eval()
    _copy(raw, ours)
    size = _size(raw, ours)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = [_nchw(y, raw) for y in raw(x)]
        maps = ours(x)
    assert list(ours.channels) == raw.feature_info.channels()
    for level, y, e in zip(ours.levels, maps, expected, strict=True):
        if level.exact:
            assert torch.equal(y, e), level
        else:
            assert y.shape[:2] == e.shape[:2]
            assert y.shape[2:] != e.shape[2:], f"{level} is exact after all"
            torch.testing.assert_close(y, nn.functional.interpolate(e, y.shape[2:], mode="bilinear"))


# Besides: strided layers that blur, which dilated ones do not.
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("family", spread([*FAMILIES, Family("mobilenetv4_conv_blur_medium")]))
def test_dilated_equal_to_raw_timm(family, stride):
    """What timm can dilate we can, with the same maps, down to an image of one cell; what it refuses we refuse."""
    arguments = {"output_stride": stride, "extra_kwargs": family.extra_kwargs}
    try:
        raw = timm.create_model(family.name, features_only=True, output_stride=stride, **family.extra_kwargs).eval()
    except FAILURES:
        with torch.device("meta"), pytest.raises(UnsupportedError, match=f"output_stride={stride}: "):
            create_feature_backbone(family.name, pretrained=False, **arguments)
        return
    indices = raw.feature_info.out_indices
    ours = create_feature_backbone(family.name, pretrained=False, out_indices=indices, **arguments).eval()
    _copy(raw, ours)
    assert list(ours.strides) == raw.feature_info.reduction()
    assert ours.strides[-1] == stride
    divisor = ours.input_spec.size_divisor
    size = ours.input_spec.size if ours.input_spec.fixed_size else (round_up(64, divisor), round_up(96, divisor))
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for level, y, e in zip(ours.levels, ours(x), raw(x), strict=True):
            assert level.exact
            assert torch.equal(y, e), level
        if not ours.input_spec.fixed_size:
            small = ours(torch.randn(2, 3, 8, 8))
            assert [tuple(y.shape[2:]) for y in small] == [(ceil_div(8, s), ceil_div(8, s)) for s in ours.strides]
            assert all(bool(y.isfinite().all()) for y in small)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "mobilenetv4_conv_small_035", "lcnet_035", "tf_mobilenetv3_small_075"]
)
def test_dilated_layers_keep_the_weights_of_the_model(name, tmp_path):
    """A dilated backbone has the names and weights of one that is not, whatever they come from."""
    plain = create_feature_backbone(name, pretrained=False, out_indices=(-1,))
    torch.save(timm.create_model(name).state_dict() | plain.body.model.state_dict(), tmp_path / "whole.pt")
    dilated = create_feature_backbone(name, weights=str(tmp_path / "whole.pt"), output_stride=8, out_indices=(-1,))
    assert dilated.strides == (8,)
    own = dilated.state_dict()
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, own[key]) for key, value in plain.state_dict().items())
    sum(y.sum() for y in dilated(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in dilated.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch14_dinov2", "vit_tiny_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("norm", [False, True])
def test_equal_to_forward_intermediates(name, norm):
    """A ViT's maps are those of its blocks, with and without the final norm."""
    model = timm.create_model(name, dynamic_img_size=True, num_classes=0).eval()
    depth = len(model.blocks)
    ours = create_feature_backbone(name, pretrained=False, out_indices=(depth - 1, 1), norm=norm).eval()
    state = model.state_dict()
    own = ours.state_dict()
    ours.load_state_dict({key: state[key.removeprefix("body.model.")] for key in own})
    patch = ours.strides[0]
    x = torch.randn(2, 3, 5 * patch, 7 * patch)
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[1, depth - 1], norm=norm, intermediates_only=True)
        maps = ours(x)
    assert torch.equal(maps[0], expected[1])
    assert torch.equal(maps[1], expected[0])


@pytest.mark.parametrize("name", ["test_convnext", "densenet121", "test_vit", "swin_tiny_patch4_window7_224"])
def test_padding_is_at_the_bottom_and_right(name):
    """An odd size gives the top left of what raw timm gives for the padded image."""
    ours = create_feature_backbone(name, pretrained=False, out_indices=(-1,)).eval()
    stride, divisor = ours.strides[0], ours.input_spec.size_divisor
    height, width = 3 * stride + 1, 5 * stride - 3
    x = torch.randn(1, 3, height, width)
    padded = nn.functional.pad(x, (0, -width % divisor, 0, -height % divisor))
    assert padded.shape != x.shape
    with torch.no_grad():
        assert torch.equal(ours(x)[0], ours.body(padded)[0][..., :4, :5])


def _copy(raw: nn.Module, ours: nn.Module) -> None:
    """Copy raw timm's weights; it renames what it rewrites, ours keep the names of the model."""
    state = raw.state_dict()
    copied = {}
    for key in ours.state_dict():
        name = key.removeprefix("body.model.")
        spellings = (name, name.replace(".", "_", 1), f"body.{name}", f"model.{name}")
        copied[key] = state[next(s for s in spellings if s in state)]
    ours.load_state_dict(copied)


def _size(raw: nn.Module, ours: nn.Module) -> tuple[int, int]:
    spec = ours.input_spec
    if spec.fixed_size:
        return spec.size
    return tuple(round_up(s, spec.size_divisor) for s in raw.pretrained_cfg["input_size"][1:])


def _nchw(y: torch.Tensor, raw: nn.Module) -> torch.Tensor:
    return y.permute(0, 3, 1, 2) if str(getattr(raw, "output_fmt", "NCHW")) == "Format.NHWC" else y
