"""Laws of pixels: an image is as bright as it is, whatever its mode."""

import numpy as np
import pytest
import strategies as some
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autobackbone import InputError
from autobackbone.input_spec import InputSpec
from autobackbone.pixels import convert

MODES = st.sampled_from(sorted(some.PIXELS))


SPEC = InputSpec(
    in_chans=3,
    size=(8, 8),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    interpolation="bilinear",
    crop_pct=1.0,
    crop_mode="center",
    min_size=1,
    fixed_size=False,
    size_divisor=1,
)


def constant(mode, brightness):
    """A small image of one brightness."""
    image = Image.new(mode, (6, 6), some.PIXELS[mode](brightness))
    if mode in ("P", "PA"):
        image.putpalette([level for i in range(256) for level in (i, i, i)])
    return image


def test_every_mode_is_tried():
    assert set(some.PIXELS) >= {mode for mode in Image.MODES if not mode.startswith("BGR")} - {"F"}


@given(MODES, st.sampled_from(["L", "RGB"]), st.floats(0, 1))
def test_a_constant_image_keeps_its_brightness(mode, target, brightness):
    brightness = float(round(brightness)) if mode == "1" else brightness
    image = convert(constant(mode, brightness), target)
    assert (image.mode, image.size) == (target, (6, 6))
    values = np.asarray(image) / 255
    near = 0.02 if mode == "LAB" else 1 / 255  # Pillow goes through a profile of colors
    np.testing.assert_allclose(values, brightness, atol=near)


@given(st.sampled_from([mode for mode in some.PIXELS if mode.startswith("I")]), st.data())
def test_sixteen_bits_are_divided_by_257(mode, data):
    values = np.array(data.draw(st.lists(st.integers(0, 65535), min_size=6, max_size=6)), np.uint16).reshape(2, 3)
    image = Image.new(mode, (3, 2))
    image.putdata([int(value) for value in values.flat])
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(convert(image, "L")), expected)
    assert np.array_equal(np.asarray(convert(image, "RGB")), np.stack([expected] * 3, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_keep_the_brightness(channels):
    mean, std = (0.5,) * channels, (0.25,) * channels
    for crop_mode in ("center", "squash", "border"):
        spec = InputSpec(channels, (4, 4), mean, std, "bicubic", 1.0, crop_mode, 1, fixed_size=False, size_divisor=1)
        transform = spec.transform()
        for mode in some.PIXELS:
            x = transform(constant(mode, 1.0))
            torch.testing.assert_close(x, torch.full((channels, 4, 4), 2.0), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (2, 2), 0.5), "32-bit pixels, whose range is not known"),
        (Image.new("I", (2, 2), 65536), "32-bit pixels, whose range is not known"),
        (Image.new("I", (2, 2), -1), "scale it to 8 or 16 bits"),
        (np.zeros((2, 2, 3), np.uint8), r"A PIL image is needed, got ndarray; Image.fromarray\(\) makes one"),
        ("photo.jpg", "A PIL image is needed, got str"),
    ],
)
def test_what_has_no_known_brightness_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        convert(image, "RGB")


@pytest.mark.parametrize("mode", ["RGB", "L", "I", "I;16", "F", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_images_without_pixels_are_refused(mode, size):
    for training in (False, True):
        with pytest.raises(InputError, match=r"has no pixels: it is \d wide and \d high"):
            SPEC.transform(training=training)(Image.new(mode, size))
