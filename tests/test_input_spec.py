"""InputSpec: normalization and transforms, against timm's own."""

import pickle

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from autobackbone import InputError, create_backbone, create_feature_backbone, get_input_spec
from autobackbone.input_spec import repeat_to


@pytest.mark.parametrize("name", ["resnet18", "vit_small_patch16_224", "vit_base_patch16_siglip_224", "inception_v3"])
def test_equal_to_timms_own_data_config(name, photo):
    with torch.device("meta"):
        spec = get_input_spec(create_feature_backbone(name, pretrained=False))
    model = timm.create_model(name)
    config = timm.data.resolve_data_config({}, model=model)
    assert (spec.mean, spec.std, spec.interpolation, spec.crop_pct, spec.crop_mode, (3, *spec.size)) == tuple(
        config[k] for k in ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size")
    )
    image = Image.open(photo)
    expected = timm.data.create_transform(**config)(image)
    assert torch.equal(spec.transform()(image), expected)
    assert spec.transform(training=True)(image).shape == expected.shape


def test_transforms_make_the_channels_that_are_taken(photo):
    for channels in (1, 3):
        backbone = create_feature_backbone("test_resnet", pretrained=False, in_chans=channels)
        transform = pickle.loads(pickle.dumps(backbone.input_spec.transform()))  # noqa: S301
        for mode in ("RGB", "L", "RGBA"):
            x = transform(Image.open(photo).convert(mode))
            assert x.shape == (channels, *backbone.input_spec.size)
            assert len(backbone(x[None])) == 3
    spec = create_feature_backbone("test_resnet", pretrained=False, in_chans=4).input_spec
    with pytest.raises(InputError, match=r"1 or 3 channels of a PIL image, this input has 4; use normalize\(\)"):
        spec.transform()


def test_normalize():
    spec = get_input_spec(create_backbone("test_resnet", pretrained=False))
    x = torch.rand(2, 3, 5, 7)
    expected = (x - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)
    assert torch.equal(spec.normalize(x), expected)
    assert torch.equal(spec.normalize(x[0]), expected[0])
    assert spec.normalize(x.half()).dtype == torch.float16
    with pytest.raises(InputError, match=r"floating point images in \[0, 1\], got torch.uint8"):
        spec.normalize(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(InputError, match="takes a tensor, got ndarray"):
        spec.normalize(np.zeros((3, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"takes \(B, 3, H, W\) or \(3, H, W\) images, got shape \(4, 5, 5\)"):
        spec.normalize(torch.rand(4, 5, 5))


def test_values_are_repeated_as_timm_repeats_stems():
    values = (0.1, 0.2, 0.3)
    weight = torch.rand(4, 3, 3, 3)
    for channels in (2, 3, 5, 6):
        adapted = timm.models.adapt_input_conv(channels, weight)
        for i, value in enumerate(repeat_to(values, channels)):
            torch.testing.assert_close(adapted[:, i] * channels / 3, weight[:, values.index(value)])
    assert repeat_to(values, 1) == pytest.approx((0.2,))
    torch.testing.assert_close(timm.models.adapt_input_conv(1, weight)[:, 0], weight.sum(1))
