"""Every image that is listed is a row or an error, never both: the rows are those of a plain loop."""

import io
import os
import sys
import tempfile
from pathlib import Path

import bad_images as some
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from some_images import expected, picture, pooled, write_pictures
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor

from autobackbone import BackboneError, InputError, extract_features, get_input_spec, open_features
from autobackbone.extraction.decoding import open_image

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="others have no /proc, and no names but UTF-8")
SETTINGS = settings(max_examples=25)


def extract(images, output, backbone=None, **kwargs):
    kwargs = {"workers": 1, "batch_size": 3, "show_progress": False, "scaled_decoding": False} | kwargs
    return extract_features(pooled() if backbone is None else backbone, images, output, **kwargs)


def oracle(content):
    """The features of an image by a plain loop; None if it has none."""
    image = some.as_pillow_reads(content)
    if image is None:
        return None
    try:
        return expected(pooled(), [image])[0]
    except (BackboneError, OSError):
        return None


@SETTINGS
@given(st.lists(some.contents, min_size=1, max_size=6), st.integers(1, 4))
def test_every_image_is_a_row_or_an_error(contents, rows):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("autobackbone.extraction.run._MAX_ROWS", rows)
        images, output = Path(folder) / "images", Path(folder) / "out"
        images.mkdir()
        for i, content in enumerate(contents):
            (images / f"{i}.jpg").write_bytes(content)
        features = [oracle(content) for content in contents]
        good = [f"{i}.jpg" for i, values in enumerate(features) if values is not None]
        bad = [f"{i}.jpg" for i, values in enumerate(features) if values is None]
        if bad:
            with pytest.raises(InputError, match=r"/\d\.jpg': ") as caught:
                extract(images, output, strict=True)
            assert any(f"{name}'" in str(caught.value) for name in bad)
        report = extract(images, output)
        table = open_features(output)
        assert table.ids == good
        assert [failure.id for failure in table.errors] == bad
        assert all(failure.reason and "\n" not in failure.reason for failure in table.errors)
        assert (report.listed, report.failed) == (len(contents), len(bad))
        assert report.skipped + report.extracted == len(good)
        assert (output / "errors.parquet").exists() == bool(bad)
        if good:
            wanted = torch.stack([values for values in features if values is not None])
            np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5, rtol=1e-4)
        again = extract(images, output)
        assert (again.listed, again.skipped, again.extracted, again.failed) == (
            len(contents),
            len(contents),
            0,
            len(bad),
        )
        retried = extract(images, output, retry_errors=True)
        assert (retried.listed, retried.skipped, retried.extracted, retried.failed) == (
            len(contents),
            len(good),
            0,
            len(bad),
        )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright(orientation, kind, tmp_path):
    content = some.with_orientation(5, orientation, kind)
    (tmp_path / "a.img").write_bytes(content)
    extract([str(tmp_path / "a.img")], tmp_path / "out", resize="stretch")
    table = open_features(tmp_path / "out")
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.img"))
    spec = get_input_spec(pooled())
    resize = Resize(spec.size, InterpolationMode.BILINEAR)
    with torch.inference_mode():
        wanted = pooled()(spec.normalize(pil_to_tensor(resize(upright.convert("RGB")))[None] / 255))
    np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5)
    row = table.row(str(tmp_path / "a.img"))
    assert (row["width"], row["height"]) == ((33, 21) if orientation < 5 else (21, 33))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<svg/>", "its content is of no format that Pillow knows"),
        (some.header(60_000, 60_000), "decompression bomb"),
        (some.several("GIF", 3), "it holds 3 images; extract one of them to a file"),
        (some.several("TIFF", 2), "it holds 2 images"),
        (some.encoded(picture(0), "JPEG")[:-30], "truncated"),
        (some.encoded(picture(0, mode="F"), "TIFF"), "32-bit pixels, whose range is not known"),
    ],
)
def test_reasons(content, reason, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(content)
    report = extract(tmp_path / "bad.jpg", tmp_path / "out")
    (failure,) = open_features(tmp_path / "out").errors
    assert reason in failure.reason
    assert (report.extracted, report.failed) == (0, 1)


@ON_LINUX
def test_what_cannot_be_read(tmp_path):
    images = tmp_path / "images"
    write_pictures(images, 2)
    (images / "folder.jpg").mkdir()
    (images / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(images / "pipe.jpg")
    names = ["000.jpg", "folder.jpg", "gone.jpg", "loop.jpg", "pipe.jpg", "001.png"]
    paths = [*(str(images / name) for name in names), "/proc/self/mem", "/dev/zero", "x\0.jpg", "\ud800.jpg", ""]
    report = extract(paths, tmp_path / "out")
    table = open_features(tmp_path / "out")
    assert table.ids == [paths[0], paths[5]]
    reasons = {failure.id.rpartition("/")[2]: failure.reason for failure in table.errors}
    assert reasons == {
        "folder.jpg": "it cannot be read (Is a directory)",
        "gone.jpg": "there is no such file",
        "loop.jpg": "it cannot be read (Too many levels of symbolic links)",
        "pipe.jpg": "it cannot be read (it is no file, but a device or a pipe)",
        "mem": "it cannot be read (Input/output error)",
        "zero": "it cannot be read (it is no file, but a device or a pipe)",
        "x\0.jpg": "it cannot be read (ValueError: embedded null byte)",
        "\\ud800.jpg": reasons["\\ud800.jpg"],
        "": "there is no such file",
    }
    assert (report.listed, report.extracted, report.failed) == (11, 2, 9)


@ON_LINUX
def test_odd_names(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    names = ["new\nline.png", "tab\t.png", " blank .png", "u\u0308.png", "\xfc.png", 'quote".png', "back\\slash.png"]
    for i, name in enumerate(names):
        picture(i).save(images / name)
    picture(9).save(images / "latin.png")
    (images / "latin.png").rename(os.fsdecode(os.fsencode(images) + b"/latin-\xe9.png"))
    report = extract(images, tmp_path / "out")
    table = open_features(tmp_path / "out")
    assert set(table.ids) == {*names, "latin-\\xe9.png"}
    assert (report.listed, report.extracted, report.failed) == (8, 8, 0)
    wanted = expected(pooled(), [picture(i) for i in range(len(names))])
    rows = [table.position(name) for name in names]
    np.testing.assert_allclose(table.numpy()[rows], wanted, atol=1e-5)


def test_a_strict_run_keeps_finished_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("autobackbone.extraction.run._MAX_ROWS", 2)
    images = tmp_path / "images"
    paths = write_pictures(images, 12)
    paths[10].write_bytes(b"bad")
    with pytest.raises(InputError, match=rf"{paths[10].name}': .*no format.*Finished parts are kept"):
        extract(images, tmp_path / "out", strict=True, batch_size=1)
    kept = len(open_features(tmp_path / "out"))
    assert kept
    paths[10].write_bytes(paths[1].read_bytes())
    report = extract(images, tmp_path / "out", strict=True)
    assert (report.skipped, report.extracted, report.failed) == (kept, 12 - kept, 0)
    assert open_features(tmp_path / "out").ids == [path.name for path in paths]


def test_mended_images_leave_the_errors(tmp_path):
    images = tmp_path / "images"
    paths = write_pictures(images, 4)
    for path in paths[:3]:
        path.write_bytes(b"bad")
    assert extract(images, tmp_path / "out").failed == 3
    table = open_features(tmp_path / "out")
    assert table.numpy().shape == (1, 96)
    for path in paths[:2]:
        picture(1).save(path)
    assert extract(images, tmp_path / "out").skipped == 4
    report = extract(images, tmp_path / "out", retry_errors=True)
    assert (report.listed, report.skipped, report.extracted, report.failed) == (4, 1, 2, 1)
    assert len(pq.read_table(tmp_path / "out" / "errors.parquet")) == 1
    paths[2].write_bytes(paths[0].read_bytes())
    assert extract(images, tmp_path / "out", retry_errors=True).failed == 0
    assert not (tmp_path / "out" / "errors.parquet").exists()
    assert open_features(tmp_path / "out").numpy().shape == (4, 96)


@pytest.mark.parametrize(
    "item", [None, 3, torch.zeros(3), torch.zeros(3, 8, 8, dtype=torch.int64), np.zeros((3, 3, 7))]
)
def test_items_that_are_no_images(item, tmp_path):
    report = extract([picture(0), item], tmp_path / "out")
    assert (report.extracted, report.failed) == (1, 1)
    assert "image" in open_features(tmp_path / "out").errors[0].reason


def test_a_data_set_and_a_transform_that_fail(tmp_path):
    class Failing:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i == 1:
                message = "no such\nitem"
                raise KeyError(message)
            return picture(i)

    report = extract(Failing(), tmp_path / "out")
    assert (report.extracted, report.failed) == (2, 1)
    assert "KeyError" in open_features(tmp_path / "out").errors[0].reason

    def transform(image):
        if image.width == 7:
            raise ZeroDivisionError
        return get_input_spec(pooled()).transform()(image) if image.width > 8 else image

    images = [picture(0), picture(0, 7, 7), picture(0, 8, 8), Image.new("RGB", (0, 0))]
    report = extract(images, tmp_path / "other", transform=transform)
    reasons = [failure.reason for failure in open_features(tmp_path / "other").errors]
    assert "ZeroDivisionError" in reasons[0]
    assert "Image" in reasons[1]
    assert "no pixels" in reasons[2]
    assert report.extracted == 1


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    content = some.with_orientation(3, 6, "PNG")
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    (tmp_path / "early.png").write_bytes(content)
    paths = [str(tmp_path / name) for name in ("early.png", "late.png")]
    for resize in ("crop", "none"):
        extract(paths, tmp_path / resize, resize=resize)
        early, late = open_features(tmp_path / resize).arrow().to_pylist()
        assert (late["width"], late["height"]) == (early["width"], early["height"]) == (21, 33)
        np.testing.assert_allclose(early["pooled"], late["pooled"], atol=1e-6)


def test_pil_images_are_turned_upright_and_left_as_they_are(tmp_path):
    images = [Image.open(io.BytesIO(some.with_orientation(3, 6, "JPEG"))) for _ in range(2)]
    wanted = expected(pooled(), images)
    extract(images, tmp_path / "out")
    table = open_features(tmp_path / "out")
    np.testing.assert_allclose(table.numpy(), wanted, atol=1e-5)
    assert (table.row("0")["width"], table.row("0")["height"]) == (21, 33)
    assert [image.size for image in images] == [(33, 21)] * 2
    assert images[0].getexif()[0x0112] == 6


def test_png_headers_are_read_without_decoding():
    """Images wait for their turn in encoded form."""
    opened = open_image(some.encoded(picture(0), "PNG"))
    assert opened.image.tile
