"""Backbones optimized for inference, of every family: the same maps."""

import pytest
import torch
from differences import error
from families import DINOV3_FAMILIES, FAMILIES, spread
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autobackbone import FeatureBackbone, UnsupportedError, create_feature_backbone, optimize_for_inference


@pytest.fixture(scope="module", params=spread(FAMILIES + DINOV3_FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(family):
    torch.manual_seed(0)
    backbone = create_feature_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs).eval()
    for module in backbone.modules():  # as new, norms change nothing, and folding them wrongly would not show
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, std=0.1)
    return backbone


@pytest.fixture(scope="module")
def fast(backbone):
    return optimize_for_inference(backbone)


@torch.inference_mode()
def test_the_maps_are_the_same(family, backbone, fast):
    sizes = [backbone.input_spec.size] if backbone.input_spec.fixed_size else [backbone.input_spec.size, family.size]
    for size in sizes:
        x = torch.randn(1, 3, *size)
        for y, expected in zip(fast(x), backbone(x), strict=True):
            assert y.shape == expected.shape
            assert error(y, expected) < 1e-3


@torch.inference_mode()
def test_bfloat16_is_no_further_off_than_autocast(backbone):
    x = torch.randn(2, 3, *backbone.input_spec.size)
    expected = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        other = backbone(x)
    allowed = max(error(y, e) for y, e in zip(other, expected, strict=True))
    try:
        fast = optimize_for_inference(backbone, dtype="bfloat16")
    except UnsupportedError:
        assert allowed > 0.05  # nor does autocast compute it well
        return
    for y, e in zip(fast(x.bfloat16()), expected, strict=True):
        assert y.dtype == torch.bfloat16
        assert error(y, e) < max(0.05, 2 * allowed)


@torch.inference_mode()
def test_it_is_saved_and_loaded(backbone, fast, tmp_path):
    fast.save_pretrained(tmp_path)
    loaded = FeatureBackbone.from_pretrained(tmp_path)
    assert loaded.inference == fast.inference
    assert loaded.weights_report.coverage == 1
    x = torch.randn(1, 3, *backbone.input_spec.size)
    for y, expected in zip(loaded(x), fast(x), strict=True):
        assert error(y, expected) < 1e-5
