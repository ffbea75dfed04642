"""Quantized backbones of every family: alike maps, or a refusal."""

import copy

import pytest
import torch
from families import DINOV3_FAMILIES, FAMILIES, spread
from torch import nn

from autobackbone import FeatureBackbone, UnsupportedError, create_feature_backbone, optimize_for_inference, quantize


@pytest.fixture(scope="module", params=spread(FAMILIES + DINOV3_FAMILIES))
def fast(request):
    torch.manual_seed(0)
    family = request.param
    backbone = create_feature_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs).eval()
    return optimize_for_inference(backbone)


@torch.inference_mode()
def test_the_maps_are_alike_and_loaded_with_the_same_bits(fast, tmp_path):
    if not any(type(part) is nn.Linear or type(part).__mro__[1] is nn.Linear for part in fast.network.modules()):
        with pytest.raises(UnsupportedError, match="has no linear layers"):
            quantize(fast, "int8_dynamic")
        return
    x = torch.randn(2, 3, *fast.input_spec.size)
    try:
        small = quantize(fast, "int8_dynamic", [x])
    except UnsupportedError as err:
        assert "less than min_similarity" in str(err)
        small = quantize(fast, "int8_dynamic", [x], min_similarity=-1)
        assert min(small.quantization_report.similarity.values()) < 0.99
    assert [y.shape for y in small(x)] == [y.shape for y in fast(x)]
    small.save_pretrained(tmp_path)
    loaded = FeatureBackbone.from_pretrained(tmp_path)
    assert loaded.inference == small.inference
    state = loaded.state_dict()
    assert state.keys() == small.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in small.state_dict().items())
    # Where a weight lies in memory decides how sums are rounded, and a code may turn with it: both are copied.
    assert all(torch.equal(y, e) for y, e in zip(copy.deepcopy(loaded)(x), copy.deepcopy(small)(x), strict=True))
