"""Files that are images, or nearly: strategies, and what Pillow makes of each."""

import io
import struct
import warnings
import zlib

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageOps
from some_images import picture

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")


def encoded(image, kind, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def with_orientation(seed, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(seed, 33, 21), kind, exif=exif)


def frames(count, mode="RGB"):
    return [picture(100 + i, 24, 18, mode) for i in range(count)]


def several(kind, count):
    first, *others = frames(count)
    return encoded(first, kind, save_all=True, append_images=others)


def header(width, height):
    """A PNG that says it is large."""
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", chunk), (b"IDAT", zlib.compress(b"\0")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def sixteen_bits(seed, kind):
    values = np.random.default_rng(seed).integers(0, 65536, (20, 26), dtype=np.uint16)
    return encoded(Image.fromarray(values), kind)


def palette(seed):
    image = picture(seed).quantize(16)
    image.info["transparency"] = 3
    return encoded(image, "PNG")


@st.composite
def cut(draw, contents):
    content = draw(contents)
    return content[: draw(st.integers(0, len(content) - 1))]


@st.composite
def flipped(draw, contents):
    content = bytearray(draw(contents))
    for _ in range(draw(st.integers(1, 5))):
        content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    return bytes(content)


seeds = st.integers(0, 50)
sides = st.sampled_from([1, 2, 3, 16, 31, 200])
plain = st.builds(
    lambda seed, w, h, kind: encoded(picture(seed, w, h), kind), seeds, sides, sides, st.sampled_from(FORMATS)
)
modes = st.builds(
    lambda seed, mode_kind: encoded(picture(seed, mode=mode_kind[0]), mode_kind[1]),
    seeds,
    st.sampled_from(
        [("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"),
         ("L", "JPEG"), ("YCbCr", "TIFF"), ("LAB", "TIFF"), ("F", "TIFF"), ("I", "TIFF"), ("RGBA", "WEBP")],
    ),
)  # fmt: skip
good = (
    plain
    | modes
    | st.builds(with_orientation, seeds, st.integers(0, 9), st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]))
    | st.builds(sixteen_bits, seeds, st.sampled_from(["PNG", "TIFF", "PPM"]))
    | st.builds(palette, seeds)
    | st.builds(several, st.just("MPO"), st.integers(1, 3))
)
contents = (
    good
    | cut(good)
    | flipped(plain)
    | st.binary(max_size=64)
    | st.builds(several, st.sampled_from(["GIF", "PNG", "WEBP", "TIFF"]), st.integers(1, 3))
    | st.sampled_from([header(60_000, 60_000), header(0, 5), header(10_000, 10_000), b"<svg/>", b"\0" * 30])
)


def as_pillow_reads(content):
    """The upright image, or None: what is damaged, too large, or several images."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = Image.open(io.BytesIO(content))
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                return None
            image.load()
            return ImageOps.exif_transpose(image)
        except Exception:  # noqa: BLE001 - of Pillow's readers
            return None
