"""What the laws are drawn from."""

import functools
from pathlib import Path

import numpy as np
import skimage.color
import torch
from families import SMALL
from hypothesis import settings
from hypothesis import strategies as st

from autobackbone import BackboneConfig, FeatureBackbone, FeatureBackboneConfig, create_feature_backbone
from autobackbone.levels import NativeLevel

SETTINGS = settings(max_examples=40)  # for laws that run a backbone

architectures = st.sampled_from(SMALL)
sides = st.integers(1, 160)
batches = st.integers(1, 3)
channel_counts = st.integers(1, 8)
strides = st.sampled_from([2, 4, 8, 16, 32, 64])
stride_requests = st.lists(strides, min_size=1, max_size=4, unique=True).map(tuple)
rates = st.floats(0, 0.9)
names = st.text(min_size=1).filter(lambda text: text.strip() == text)
image_sizes = st.none() | st.tuples(st.integers(1, 2000), st.integers(1, 2000))
integers = st.integers(-(2**63) + 1, 2**63 - 1)
extra_kwargs = st.dictionaries(
    st.text().filter(lambda name: name != "cache_dir"), st.none() | st.booleans() | integers | st.text(), max_size=3
)

_common = {
    "model_name": names,
    "pretrained": st.booleans(),
    "drop_rate": rates,
    "drop_path_rate": rates,
    "in_chans": st.integers(1, 20),
    "img_size": image_sizes,
    "weights": st.none() | st.text(min_size=1).filter(lambda text: "\0" not in text),
    "extra_kwargs": extra_kwargs,
}
backbone_configs = st.builds(BackboneConfig, num_classes=st.integers(0, 10**6), **_common)
feature_configs = st.one_of(
    st.builds(
        FeatureBackboneConfig,
        **_common,
        **request,
        output_stride=st.sampled_from([8, 16, 32]),
        pyramid=st.sampled_from(["resample", "none"]),
        norm=st.none() | st.booleans(),
    )
    for request in (
        {},
        {"out_indices": st.lists(st.integers(-30, 30), min_size=1, unique=True)},
        {"out_strides": st.lists(st.integers(1, 128), min_size=1, unique=True)},
    )
)

# Of every mode of PIL but F, whose range nobody says: how a pixel of a brightness from 0 to 1 is written.
PIXELS = {
    "1": lambda b: round(b) * 255,
    "L": lambda b: round(255 * b),
    "P": lambda b: round(255 * b),  # with the palette of grays
    "LA": lambda b: (round(255 * b), 255),
    "La": lambda b: (round(255 * b), 255),
    "PA": lambda b: (round(255 * b), 255),
    "RGB": lambda b: (round(255 * b),) * 3,
    "RGBA": lambda b: (*(round(255 * b),) * 3, 255),
    "RGBa": lambda b: (*(round(255 * b),) * 3, 255),
    "RGBX": lambda b: (*(round(255 * b),) * 3, 0),
    "CMYK": lambda b: (0, 0, 0, 255 - round(255 * b)),
    "YCbCr": lambda b: (round(255 * b), 128, 128),
    "HSV": lambda b: (0, 0, round(255 * b)),
    "LAB": lambda b: (round(2.55 * lightness(b)), 128, 128),
    **dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), lambda b: round(65535 * b)),
}


def lightness(brightness: float) -> float:
    """CIE lightness, from 0 to 100, of a gray of sRGB from 0 to 1."""
    return float(skimage.color.rgb2lab(np.full((1, 1, 3), brightness))[0, 0, 0])


# What model names, repositories and addresses are made of, well and badly.
_prefixes = [
    "",
    "timm/",
    "torchvision/",
    "hf-hub:",
    "HF_HUB:",
    "local-dir:",
    "https://",
    "HTTP://127.0.0.1:1/",
    "s3://",
    "C:",
]
_parts = [
    "resnet50",
    "ViT-B",
    "owner",
    "repo",
    "..",
    "--",
    ".git",
    ".",
    "/",
    "\\",
    "@",
    "@v1",
    "refs/pr/1",
    ":",
    "dinov3_vits14",
]
references = st.builds(
    lambda prefix, parts: prefix + "".join(parts),
    st.sampled_from(_prefixes),
    st.lists(st.sampled_from([*_parts, "a\0b", "\n", " ", "\ud800", "é", "x" * 300]) | st.text(max_size=3), max_size=6),
)

# Values that a field may be given, of every kind that a user's code, a JSON or a YAML file can hold, and some others.
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.dates(),
    st.sampled_from([400, 5000]).map(lambda digits: 10**digits),
    st.sampled_from(["\ud800", "a\0b", "a\nb", "x" * 300, object(), object, print, Path("a/b")]),
    st.sampled_from([np.int64(3), np.uint8(255), np.float32(0.5), np.float64("nan"), np.bool_(1), np.str_("a")]),
    st.sampled_from([np.zeros(()), np.arange(6).reshape(2, 3), np.array([None, "a"]), np.zeros(0), torch.ones(2)]),
)
anything = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def addresses(draw):
    """Draw an address, and the secrets in it."""
    secrets = []

    def secret(alphabet: str = "aZ09-._~%+") -> str:
        secrets.append(f"hush{draw(st.text(alphabet, min_size=1, max_size=9))}hush")
        return secrets[-1]

    userinfo = ""
    if draw(st.booleans()):
        userinfo = f"{secret()}:{secret('aZ09!$@:')}@" if draw(st.booleans()) else f"{secret()}@"
    names = st.sampled_from(["X-Amz-Signature", "sig", "token", "key", "Expires", "se", "v", "id"])
    query = draw(st.lists(names.map(lambda name: f"{name}={secret()}") | st.builds(secret), max_size=3))
    url = f"{draw(st.sampled_from(['https', 'http', 'HTTPS', 's3']))}://{userinfo}host"
    url += draw(st.sampled_from(["", ":80"]))
    url += draw(st.sampled_from(["", "/w.pth", "/a/@b/w.safetensors"]))
    if query:
        url += f"?{draw(st.sampled_from(['&', ';'])).join(query)}"
    return url + (f"#{secret()}" if draw(st.booleans()) else ""), secrets


@st.composite
def native_levels(draw):
    """Ladders of native levels with strides that do not fall."""
    rungs = sorted(draw(st.lists(st.sampled_from([1, 2, 4, 7, 8, 12, 14, 16, 17, 28, 32, 64]), min_size=1, max_size=9)))
    return tuple(
        NativeLevel(i, draw(st.integers(1, 64)), stride, 1, fixed_size=False, exact=True, module=f"blocks.{i}")
        for i, stride in enumerate(rungs)
    )


@functools.cache
def backbone(name: str, **request) -> FeatureBackbone:
    """Make a small backbone in evaluation mode, once."""
    return create_feature_backbone(name, pretrained=False, **request).eval()
