"""Nothing depends on what was in memory, in the batch or on the device before."""

import pytest
import torch
from families import DINOV3_FAMILIES, FAMILIES, spread

from autobackbone import FeatureBackbone, create_feature_backbone


@pytest.fixture(scope="module", params=spread(FAMILIES + DINOV3_FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(family) -> FeatureBackbone:
    """Create a backbone in memory that is filled with NaN where nothing was written."""
    torch.manual_seed(0)
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert bool(torch.empty(3).isnan().all())
        return create_feature_backbone(
            family.name, pretrained=False, extra_kwargs=family.extra_kwargs, out_strides=(8, 32)
        ).eval()
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="module")
def images(family, backbone):
    size = backbone.input_spec.size if backbone.input_spec.fixed_size else family.size
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_every_value_was_written(backbone):
    tensors = dict(backbone.named_parameters()) | dict(backbone.named_buffers())
    for name, module in backbone.named_modules():
        tensors |= {f"{name}.{key}": value for key, value in vars(module).items() if isinstance(value, torch.Tensor)}
    assert [name for name, tensor in tensors.items() if bool(tensor.isnan().any())] == []


def test_a_batch_gives_what_each_image_gives(backbone, images):
    with torch.no_grad():
        together = backbone(images)
        alone = [backbone(image[None]) for image in images]
    for level, y in enumerate(together):
        assert bool(y.isfinite().all())
        expected = torch.cat([maps[level] for maps in alone])
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_meta_after_a_pass_elsewhere(backbone, images):
    """What a pass keeps, such as tables by device or size, holds for no other device."""
    with torch.no_grad():
        shapes = [y.shape for y in backbone(images)]
        maps = backbone.to("meta")(images.to("meta"))
    assert all(y.is_meta for y in maps)
    assert [y.shape for y in maps] == shapes
