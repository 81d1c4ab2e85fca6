"""Image files as strangers leave them: turned, rare, damaged, or no files at all."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from model_zoo import images
from model_zoo.images import BadImageError, decode_rgb, read_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str, **options) -> bytes:
    picture = Image.fromarray(PIXELS)
    exif = picture.getexif()
    exif[0x0112] = orientation
    return encode(picture, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_every_orientation_is_brought_upright(orientation, kind, options):
    data = turned(orientation, kind, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_rgb(data), np.array(expected.convert("RGB")))


MODES = {
    "grey": lambda p: p.convert("L"),
    "black and white": lambda p: p.convert("1"),
    "palette": lambda p: p.convert("P"),
    "grey with alpha": lambda p: p.convert("LA"),
    "alpha": lambda p: p.convert("RGBA"),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_rgb_afterwards(mode):
    pixels = decode_rgb(encode(MODES[mode](Image.fromarray(PIXELS)), "PNG"))
    assert pixels.shape == PIXELS.shape
    assert pixels.dtype == np.uint8


def test_16_bit_colour_keeps_the_upper_byte(tmp_path: Path):
    cv2 = pytest.importorskip("cv2")
    deep = PIXELS.astype(np.uint16) << 8 | 0x7F
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png"), PIXELS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("PNG", {}), ("BMP", {}), ("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_damage_never_escapes_as_another_error(kind, options):
    """Flipped and missing bytes: pixels or a reason, for every decoder."""
    whole = encode(Image.fromarray(PIXELS), kind, **options) if kind == "BMP" else turned(6, kind, **options)
    generator = random.Random(0)
    seen = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 2, 8])):
            data[generator.randrange(min(len(data), 200))] = generator.randrange(256)
        if generator.random() < 0.2:
            del data[generator.randrange(len(data)) :]
        try:
            seen.add(decode_rgb(bytes(data)).dtype.name)
        except BadImageError:
            seen.add("bad")
    assert seen == {"uint8", "bad"}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "zero byte in its name", "huge"])
def test_what_is_no_image_file_is_not_opened(kind, tmp_path: Path, monkeypatch):
    path = tmp_path / "image.jpg"
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for a writer
    elif kind == "device":
        path = Path("/dev/zero")  # reading it would never end
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        monkeypatch.setattr(images, "MAX_BYTES", 10)
        path.write_bytes(bytes(11))
    else:
        path = tmp_path / "a\0b.jpg"
    with pytest.raises(BadImageError, match=r"cannot be read|the limit is 10"):
        read_rgb(path)
