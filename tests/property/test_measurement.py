"""Laws of the measurement: patches of any size, the sizes that are tried, smallest sizes, numbers of channels."""

import math

import pytest
import timm
import torch
from families import FAMILIES, Family, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from autobackbone import InputSizeError, UnsupportedError, create_backbone, create_feature_backbone, get_input_spec
from autobackbone.levels import ceil_div
from autobackbone.sources.installed import facts_of
from autobackbone.sources.meta import meta_device
from autobackbone.sources.timm.trial_sizes import closest_stride, divisors_to_try, sizes_to_try

# Architectures whose patches can have any size: depth makes them quick.
PATCHED = {
    "test_vit": {},
    "deit_tiny_patch16_224": {"depth": 2},
    "eva02_tiny_patch14_224": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 2},
    "vit_tiny_patch16_dinov3_qkvb": {"depth": 2},
    "naflexvit_base_patch16_parfac_gap": {"depth": 2},
    "beit_base_patch16_224": {"depth": 2},
    "dinov3_vits16": {"num_hidden_layers": 2},
    "swinv2_tiny_window16_256": {"depths": (1, 1, 1, 1)},
    "test_convnext": {},
    "fasternet_t0": {"depths": (1, 1, 1, 1)},
}


@settings(max_examples=16)
@given(st.sampled_from(sorted(PATCHED)), st.integers(3, 41), st.data())
def test_patches_of_any_size(name, patch, data):
    arguments = {"pretrained": False, "out_indices": (-1,), "extra_kwargs": PATCHED[name] | {"patch_size": patch}}
    with meta_device(), torch.no_grad():
        backbone = create_feature_backbone(name, **arguments).eval()
        spec = backbone.input_spec
        sides = st.integers(spec.min_size, spec.min_size + 200)
        size = data.draw(st.tuples(sides, sides))
        if spec.fixed_size:
            backbone = create_feature_backbone(name, img_size=size, **arguments).eval()
        (y,) = backbone(torch.empty(1, 3, *size))
    (stride,) = backbone.strides
    assert stride % patch == 0
    assert tuple(y.shape) == (1, backbone.out_channels, ceil_div(size[0], stride), ceil_div(size[1], stride))
    if backbone.native_levels[0].stride == stride:
        assert spec.size_divisor == patch


@given(st.integers(1, 300))
def test_sizes_that_are_tried_have_nothing_in_common_but_the_divisor(divisor):
    sizes = sizes_to_try(divisor)
    for axis in zip(*sizes, strict=True):
        assert math.gcd(*axis[:2]) == divisor
        assert min(axis) >= min(200, divisor)
    assert {side // divisor % 8 for size in sizes for side in size} == set(range(8))
    assert all(height != width for height, width in sizes)


@given(st.lists(st.integers(1, 100), min_size=1), st.lists(st.integers(1, 50)))
def test_whatever_is_declared_is_tried(strides, patches):
    divisors = divisors_to_try(strides, patches, ())
    assert list(divisors) == sorted(set(divisors))
    assert {d for n in (*strides, *patches) for d in range(1, n + 1) if n % d == 0} <= set(divisors)


@given(st.integers(1, 130), st.integers(1, 130), st.integers(2000, 4000), st.integers(2000, 4000), st.booleans())
def test_strides_are_put_right(true, declared, height, width, rounds_up):
    cells = [ceil_div(side, true) if rounds_up else side // true for side in (height, width)]
    stride = closest_stride((height, width), cells, declared, finer=1)
    assert abs(stride / true - 1) < 0.15
    if declared == true:
        assert stride == true
    if true % 2 == 0:
        assert closest_stride((height, width), cells, 10 * true, finer=true) == true


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_that_an_architecture_cannot_take_are_refused(channels):
    for create in (create_backbone, create_feature_backbone):
        with pytest.raises(UnsupportedError, match=rf"in_chans={channels}: 'csatv2' takes images of 3 channels only"):
            create("csatv2", pretrained=False, in_chans=channels)


@pytest.mark.parametrize("family", spread([*FAMILIES, Family("qwen3_vit_88m_merge")]))
def test_pooled_backbones_run_from_their_smallest_size_on(family):
    name = family.name
    with meta_device(), torch.no_grad():
        model = create_backbone(name, pretrained=False).eval()
        spec = get_input_spec(model)
        for i in range(1 if spec.fixed_size else 3):
            size = (spec.min_size + i * spec.size_divisor, spec.min_size + 2 * i * spec.size_divisor)
            assert model(torch.empty(1, spec.in_chans, *size)).shape == (1, model.head_hidden_size)


@pytest.mark.parametrize("name", ["ghostnetv2_100", "ghostnetv3_050"])
def test_what_the_head_needs_counts(name):
    """It runs at its smallest size for real, and a cell less is refused for a reason: the head fails there."""
    model = create_backbone(name, pretrained=False).eval()
    smallest = get_input_spec(model).min_size
    levels = create_feature_backbone(name, pretrained=False).input_spec.min_size
    assert levels < smallest == facts_of(name).pooled_min_size
    with torch.no_grad():
        assert bool(model(torch.rand(1, 3, smallest, smallest)).isfinite().all())
        with pytest.raises(RuntimeError, match="too small"):
            timm.create_model(name, num_classes=0).eval()(torch.rand(1, 3, smallest - 1, smallest - 1))
        with pytest.raises(InputSizeError, match=f"at least {smallest}x{smallest}"):
            model(torch.rand(1, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize("patch", [(8, 16), (16, 8), (7, 10)])
def test_patches_that_are_no_squares(patch):
    """There is one stride, the longer side or the shorter, so the map is resampled to it, and says so."""
    with meta_device(), torch.no_grad():
        backbone = create_feature_backbone(
            "test_vit", pretrained=False, out_indices=(-1,), extra_kwargs={"patch_size": patch}
        ).eval()
        (y,) = backbone(torch.empty(1, 3, 97, 130))
    (level,) = backbone.levels
    assert backbone.input_spec.size_divisor == math.lcm(*patch)
    assert not level.exact
    assert tuple(y.shape[2:]) == (ceil_div(97, level.stride), ceil_div(130, level.stride))
