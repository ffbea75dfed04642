"""Features are those of a plain loop, for backbones of every kind and whatever is kept."""

import copy
import dataclasses
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from some_images import expected, leveled, picture, pooled
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor

from autobackbone import ConfigError, extract_features, get_input_spec, open_features
from autobackbone.extraction.columns import level_columns

DINOV3 = ("dinov3_vits16", (("num_hidden_layers", 2),))
POOLED = {
    "convolutions": ("test_resnet", {}),
    "transformer": ("test_vit", {}),
    "inverted residuals": ("test_efficientnet", {}),
    "one size": ("test_vit_relpos", {}),
    "gray": ("test_resnet", {"in_chans": 1}),
    "logits": ("test_resnet", {"num_classes": 5}),
    "size": ("test_vit", {"img_size": (64, 96)}),
}
LEVELED = {
    "convolutions": ("test_resnet", {}),
    "transformer": ("test_vit", {}),
    "inverted residuals": ("test_efficientnet", {"out_strides": (16, 4)}),
    "windows": ("test_convnext", {}),
    "gray": ("test_efficientnet", {"in_chans": 1}),
    "one level": ("test_vit", {"out_indices": (-1,), "pyramid": "none"}),
}
PICTURES = [picture(0, 40, 30), picture(1, 30, 40, "L"), picture(2, 200, 20), picture(3, 161, 163, "RGBA")]


def extract(images, output, backbone, **kwargs):
    kwargs = {"workers": 2, "batch_size": 3, "show_progress": False} | kwargs
    report = extract_features(backbone, images, output, **kwargs)
    assert report.extracted == len(images)
    return open_features(output)


@pytest.mark.parametrize("kind", POOLED)
def test_pooled_features(kind, tmp_path):
    name, kwargs = POOLED[kind]
    backbone = pooled(name, **kwargs)
    table = extract(PICTURES, tmp_path / "out", backbone)
    assert table.columns == ("logits" if "num_classes" in kwargs else "pooled",)
    wanted = expected(backbone, PICTURES)
    np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5, rtol=1e-4)
    assert table.metadata["config"]["model_name"] == name
    assert table.metadata["kind"] == "pooled"


def test_channels_that_images_do_not_have(tmp_path):
    backbone = pooled(in_chans=4)
    with pytest.raises(ConfigError, match="takes 4 channels, an image has 1 or 3: give tensors or transform="):
        extract(PICTURES, tmp_path / "out", backbone)
    assert not (tmp_path / "out").exists()
    tensors = [torch.rand(4, 40, 48) for _ in range(3)]
    with torch.inference_mode():
        wanted = backbone(torch.stack(tensors))
    table = extract(tensors, tmp_path / "tensors", backbone)
    np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5)
    table = extract(
        PICTURES, tmp_path / "images", backbone, transform=lambda image: torch.full((4, 32, 32), image.width / 200)
    )
    with torch.inference_mode():
        wanted = backbone(torch.stack([torch.full((4, 32, 32), image.width / 200) for image in PICTURES]))
    np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5)


def reduced(y, reduction):
    """A map (C, H, W), reduced by hand."""
    if reduction == "map":
        return y
    if reduction == "mean":
        return y.flatten(1).mean(1)
    if reduction == "max":
        return y.flatten(1).max(1).values
    if reduction == "gem":
        return (y.flatten(1).clamp(min=1e-6) ** 3).mean(1) ** (1 / 3)
    k = int(reduction.removeprefix("grid"))
    rows = [[cell.mean((1, 2)) for cell in _cells(row, k, 2)] for row in _cells(y, k, 1)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _cells(y, k, dim):
    n = y.shape[dim]
    return [y.narrow(dim, i * n // k, -(-(i + 1) * n // k) - i * n // k) for i in range(k)]


REDUCTIONS = ("mean", "max", "gem", "grid1", "grid2", "grid3", "map")


@pytest.mark.parametrize("kind", LEVELED)
def test_levels(kind, tmp_path):
    name, kwargs = LEVELED[kind]
    backbone = leveled(name, **kwargs)
    table = extract(PICTURES, tmp_path / "out", backbone, keep=REDUCTIONS)
    wanted = expected(backbone, PICTURES)
    for i, level in enumerate(backbone.levels):
        for reduction in REDUCTIONS:
            column = f"{level.name}_{reduction}"
            values = torch.stack([reduced(maps[i], reduction) for maps in wanted])
            assert table.shape(column) == tuple(values.shape[1:])
            np.testing.assert_allclose(table.numpy(column), values, atol=1e-4, rtol=1e-3, err_msg=column)


@pytest.mark.parametrize("kind", ["pooled", "levels"])
def test_dinov3(kind, tmp_path):
    make = pooled if kind == "pooled" else leveled
    backbone = make("dinov3_vits16", extra_kwargs=_Frozen(num_hidden_layers=2), img_size=64)
    table = extract(PICTURES, tmp_path / "out", backbone)
    wanted = expected(backbone, PICTURES)
    if kind == "pooled":
        np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5, rtol=1e-3)
    else:
        for i, column in enumerate(table.columns):
            values = torch.stack([maps[i].mean((1, 2)) for maps in wanted])
            np.testing.assert_allclose(table.numpy(column), values, atol=1e-4, rtol=1e-3)


class _Frozen(dict):
    """Keyword arguments that can be the key of a cache."""

    def __hash__(self):
        return hash(tuple(sorted(self.items())))


def test_images_of_their_own_size(tmp_path):
    backbone = leveled()
    spec = backbone.input_spec
    images = [picture(i, 30 + i % 3, 40 + i % 2) for i in range(12)]
    table = extract(images, tmp_path / "out", backbone, resize="none", keep={"c3": ("map", "grid2"), "c5": "mean"})
    for i, image in enumerate(images):
        with torch.inference_mode():
            maps = backbone(spec.normalize(pil_to_tensor(image)[None] / 255))
        row = table.row(str(i))
        torch.testing.assert_close(row["c3_map"], maps[0][0], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(row["c3_grid2"], F.adaptive_avg_pool2d(maps[0], 2)[0], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(row["c5_mean"], maps[2][0].mean((1, 2)), atol=1e-5, rtol=1e-3)


@settings(max_examples=20)
@given(st.tuples(st.integers(16, 90), st.integers(16, 90)) | st.integers(16, 90))
def test_stretched_images(size):
    backbone = pooled()
    spec = get_input_spec(backbone)
    with tempfile.TemporaryDirectory() as folder:
        table = extract(
            PICTURES, Path(folder) / "out", backbone, resize="stretch", image_size=size, scaled_decoding=False
        )
        resize = Resize((size, size) if isinstance(size, int) else size, InterpolationMode.BILINEAR)
        pixels = [pil_to_tensor(resize(image.convert("RGB"))) / 255 for image in PICTURES]
        with torch.inference_mode():
            wanted = backbone(spec.normalize(torch.stack(pixels)))
        np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5, rtol=1e-3)


@settings(max_examples=20)
@given(st.tuples(st.integers(32, 90), st.integers(32, 90)))
def test_cropped_images_of_another_size(size):
    backbone = copy.copy(pooled())
    spec = dataclasses.replace(get_input_spec(backbone), size=size)
    with tempfile.TemporaryDirectory() as folder:
        table = extract(PICTURES, Path(folder) / "out", backbone, image_size=size)
        transform = spec.transform()
        with torch.inference_mode():
            wanted = backbone(torch.stack([transform(image) for image in PICTURES]))
        np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5, rtol=1e-3)


def test_scaled_decoding_changes_little(photo, tmp_path):
    Image.open(photo).convert("RGB").resize((902, 600)).save(tmp_path / "large.jpg", quality=95)
    backbone = pooled()
    rows = []
    for scaled in (True, False):
        extract_features(backbone, tmp_path / "large.jpg", tmp_path / f"out-{scaled}", scaled_decoding=scaled)
        table = open_features(tmp_path / f"out-{scaled}")
        assert (table.arrow()["width"][0].as_py(), table.arrow()["height"][0].as_py()) == (902, 600)
        rows.append(table.torch()[0])
    assert torch.cosine_similarity(rows[0], rows[1], dim=0) > 0.999
    torch.testing.assert_close(rows[1], expected(backbone, [tmp_path / "large.jpg"])[0], atol=1e-5, rtol=1e-4)


# --- what is kept ---

LEVELS = leveled().levels
reductions = st.sampled_from(["mean", "max", "gem", "map"]) | st.integers(1, 999).map("grid{}".format)
some_reductions = (
    reductions | st.lists(reductions, min_size=1, max_size=4) | st.lists(reductions, min_size=1).map(tuple)
)
keeps = some_reductions | st.dictionaries(st.sampled_from(["c3", "c4", "c5"]), some_reductions, min_size=1)


@given(keeps)
def test_what_is_kept(keep):
    columns = level_columns(keep, LEVELS)
    wanted = keep if isinstance(keep, dict) else {level.name: keep for level in LEVELS}
    names = [
        f"{name}_{reduction}"
        for name, several in wanted.items()
        for reduction in dict.fromkeys([several] if isinstance(several, str) else several)
    ]
    assert [column.name for column in columns] == names
    by_name = {level.name: level for level in LEVELS}
    for column in columns:
        assert column.level is not None
        assert column.channels == by_name[column.level].channels
        assert LEVELS[column.position].name == column.level


def test_the_mean_is_kept_by_default():
    assert [column.name for column in level_columns(None, LEVELS)] == ["c3_mean", "c4_mean", "c5_mean"]


junk = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.binary(),
    st.just([]),
    st.just({}),
    st.just([["mean"]]),
    st.just(np.zeros(2)),
    st.just(torch.zeros(2)),
    st.sampled_from(["grid0", "grid", "grid01", "grid1000", "grid-1", "Mean", "c5", "pooled", "c5_mean", "", "mean "]),
    st.text(string.ascii_letters, min_size=1).filter(lambda text: text not in ("mean", "max", "gem", "map")),
    st.builds(object),
)


@given(
    junk
    | st.lists(junk, min_size=1, max_size=3)
    | st.dictionaries(st.sampled_from(["c3", "c5"]), junk, min_size=1)
    | st.dictionaries(st.sampled_from(["c2", "c6", "C5", 5, None, "layer4"]), reductions, min_size=1)
)
def test_what_cannot_be_kept(keep):
    with pytest.raises(ConfigError, match=r"keep="):
        level_columns(keep, LEVELS)


@pytest.mark.parametrize("mode", [True, False])
def test_reductions_of_half_precision_backbones(mode, tmp_path):
    backbone = copy.deepcopy(leveled()).bfloat16().train(mode=mode)
    table = extract(PICTURES, tmp_path / "out", backbone, keep=("mean", "gem"))
    spec = backbone.input_spec
    with torch.inference_mode():
        pixels = torch.stack([spec.transform()(image) for image in PICTURES])
        wanted = [y.float().mean((2, 3)) for y in copy.deepcopy(backbone).eval()(pixels.bfloat16())]
    for level, values in zip(backbone.levels, wanted, strict=True):
        torch.testing.assert_close(table.torch(f"{level.name}_mean"), values, atol=2e-2, rtol=5e-2)
    assert table.metadata["compute_dtype"] == "bfloat16"
