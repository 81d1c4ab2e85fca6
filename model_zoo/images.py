"""Decoding: every detector sees the same RGB uint8 pixels, and bad files stay out.

Facts behind the choices: OpenCV rotates by EXIF and Pillow does not, so images
are decoded once, here; the header is checked before pixels are allocated; a
truncated file is an error, never half an image.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
"""100 megapixels = 300 MB as RGB; a header that claims more is refused unread."""
MAX_SIDE = 65_500
"""The largest side that JPEG can hold; guards 1-pixel-wide monsters."""
MAX_BYTES = 1 << 30
"""No file of at most 100 megapixels is larger than this: 16 bits in four channels are 800 MB."""

# Pillow's own check warns from 89 megapixels on, by way of process-wide filters that the threads
# which decode must not swap; our cap is stricter than its error
Image.MAX_IMAGE_PIXELS = None

# EXIF orientation to what brings the picture upright (Exif 2.3, tag 274)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class BadImageError(Exception):
    """The image cannot be used; the message is the reason for the quarantine."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decodes an image file.

    Args:
        path: A JPEG, PNG, BMP, WebP or TIFF file.

    Returns:
        (height, width, 3) uint8 RGB, EXIF orientation applied. CMYK and
        palettes are converted, transparency is dropped, 16-bit grey is scaled
        to 8 bits by its upper byte.

    Raises:
        BadImageError: Unreadable, truncated, empty, too large or not an image.
    """
    return decode_rgb(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """Reads an image file, and nothing that only looks like one.

    A list of images may name anything: a pipe would block for ever, a device never end.

    Raises:
        BadImageError: Missing, unreadable, not a regular file or larger than `MAX_BYTES`.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise BadImageError("cannot be read: not a file")
        if facts.st_size > MAX_BYTES:
            raise BadImageError(f"the file has {facts.st_size:,} bytes; the limit is {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise BadImageError("cannot be read: its name holds a zero byte") from None


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """Decodes the bytes of an image file; see `read_rgb`."""
    if not data:
        raise BadImageError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            return _to_rgb(image)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"not a readable image ({', '.join(FORMATS)})") from None
    except Exception as error:
        # Pillow's decoders report damage as OSError, SyntaxError, ValueError, EOFError, IndexError,
        # struct.error, MemoryError and whatever else their parsers stumble over
        raise BadImageError(f"damaged: {error}") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadImageError(f"the header claims {width} x {height} pixels; the limit is {MAX_PIXELS:,}")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no defined range; convert to 8 bits")
    image.load()  # Pillow turns TIFF files itself, here, and then forgets their orientation
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode in _SIXTEEN_BIT:
        grey = (np.asarray(upright).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # a palette with transparency converts cleanly only by way of RGBA
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"), dtype=np.uint8)
