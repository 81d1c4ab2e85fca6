"""How a demo scene is drawn: ink, colours, and clutter that is no digit."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Glyph = NDArray[np.float32]
"""(height, width) float32, opacity of the ink in [0, 1], cut tight around it."""

Canvas = NDArray[np.float32]
"""(size, size, 3) float32 RGB in [0, 255], drawn on in place."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_EDGE = 0.12  # half the width of an ink edge, as opacity: crisp, but without stairs


def make_glyph(sample: NDArray[np.uint8], length: float, *, angle: float, weight: float) -> Glyph:
    """Scales and turns one handwritten digit.

    Args:
        sample: (28, 28) uint8, ink 255 on 0.
        length: Longer side of the upright ink in pixels.
        angle: Degrees, counter-clockwise.
        weight: Opacity of the enlarged sample at which ink begins; a lower
            value gives a bolder stroke.

    Returns:
        The glyph; every border row and column holds ink of at least half opacity.
    """
    rows, columns = np.nonzero(sample > 127)
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    scale = length / max(height, width)
    side = int(np.ceil(np.hypot(height, width) * scale)) + 8
    center = (float(left + width / 2), float(top + height / 2))
    matrix = np.asarray(cv2.getRotationMatrix2D(center, angle, scale), np.float64)
    matrix[:, 2] += side / 2 - np.array(center)
    turned = cv2.warpAffine(sample, matrix, (side, side), flags=cv2.INTER_CUBIC).astype(np.float32) / 255
    opacity = ((turned - weight) / (2 * _EDGE) + 0.5).clip(0, 1)
    inked = opacity >= 0.5
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return np.asarray(opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.float32)


def draw_glyph(rng: np.random.Generator, canvas: Canvas, glyph: Glyph, x: int, y: int) -> None:
    """Inks a glyph with its top left corner at (x, y), in a colour that stands out.

    On restless ground (and sometimes elsewhere) a soft halo in the opposite
    brightness lies under the ink, or a person could not read it.
    """
    height, width = glyph.shape
    patch = canvas[y : y + height, x : x + width]
    luma = patch @ _LUMA
    color = _standing_out(rng, float(luma.mean()), contrast=float(rng.uniform(60, 120)))
    if luma.std() > 34 or rng.random() < 0.25:
        _halo(rng, canvas, glyph, x, y, dark=float(color @ _LUMA) > luma.mean())
    opacity = glyph[..., None] * rng.uniform(0.88, 1.0)
    patch += (color - patch) * opacity.astype(np.float32)


def _halo(rng: np.random.Generator, canvas: Canvas, glyph: Glyph, x: int, y: int, *, dark: bool) -> None:
    height, width = glyph.shape
    blur = max(2.0, 0.09 * max(height, width))
    padded = np.zeros(canvas.shape[:2], np.float32)
    padded[y : y + height, x : x + width] = glyph
    spread = np.minimum(cv2.GaussianBlur(padded, (0, 0), blur) * 2.2, 1) * rng.uniform(0.6, 0.85)
    tone = rng.uniform(0, 40, 3) if dark else rng.uniform(215, 255, 3)
    canvas += (tone.astype(np.float32) - canvas) * spread[..., None].astype(np.float32)


def _color(rng: np.random.Generator) -> NDArray[np.float32]:
    rgb = colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(0, 1)), float(rng.uniform(0.05, 1)))
    return np.array(rgb, np.float32) * 255


def _standing_out(rng: np.random.Generator, ground: float, contrast: float) -> NDArray[np.float32]:
    """A random colour whose brightness differs from the ground's; else near black or white."""
    for _ in range(12):
        color = _color(rng)
        if abs(float(color @ _LUMA) - ground) >= contrast:
            return color
    return np.full(3, 245 if ground < 128 else 12, np.float32)


def add_clutter(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draws up to five things that are not digits: lines, waves, blobs, crosses, specks."""
    for _ in range(int(rng.integers(0, 6))):
        draw = _CLUTTER[int(rng.integers(len(_CLUTTER)))]
        mask = np.zeros(canvas.shape[:2], np.uint8)
        draw(rng, mask)
        opacity = mask.astype(np.float32)[..., None] / 255 * np.float32(rng.uniform(0.45, 0.95))
        canvas += (_color(rng) - canvas) * opacity


def noisy(rng: np.random.Generator, canvas: Canvas) -> NDArray[np.uint8]:
    """The finished picture: sensor noise of up to 7 grey levels, uint8."""
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(0, 7))
    return np.asarray((canvas + noise).round().clip(0, 255), np.uint8)


def _stroke(mask: NDArray[np.uint8], points: NDArray[np.float64], thickness: int) -> None:
    # shift=4: coordinates in sixteenths of a pixel, so that thin lines do not snap to the grid
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(mask, [fixed], False, 255, thickness, cv2.LINE_AA, shift=4)


def _line(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """Across the whole scene, so that it is never taken for a one."""
    size = mask.shape[0]
    ends = np.array([[-4, rng.uniform(0, size)], [size + 4, rng.uniform(0, size)]])
    _stroke(mask, ends[:, ::-1] if rng.random() < 0.5 else ends, int(rng.integers(1, 5)))


def _wave(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """A wavy scribble of four to seven swings."""
    size = mask.shape[0]
    along = np.linspace(0, 1, 60)
    length, height = size * rng.uniform(0.4, 0.8), size * rng.uniform(0.02, 0.06)
    turn = rng.uniform(0, 2 * np.pi)
    wave = np.stack([(along - 0.5) * length, height * np.sin(along * 2 * np.pi * rng.uniform(4, 7))], axis=1)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    _stroke(mask, wave @ rotation + rng.uniform(0.2, 0.8, 2) * size, int(rng.integers(1, 5)))


def _blob(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """A filled, uneven round shape."""
    size = mask.shape[0]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    bumps = sum(rng.uniform(0, 0.3) / k * np.sin(k * angles + rng.uniform(0, 6)) for k in (1, 2, 3))
    radius = size * rng.uniform(0.03, 0.12) * (1 + bumps)
    stretch = rng.uniform(0.6, 1.0, 2)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None] * stretch
    points = np.round((outline + rng.uniform(0, 1, 2) * size) * 16).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, shift=4)


def _cross(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """An asterisk of two to four strokes through one point."""
    size = mask.shape[0]
    center, radius = rng.uniform(0.05, 0.95, 2) * size, size * rng.uniform(0.04, 0.12)
    count, turn, thickness = int(rng.integers(2, 5)), rng.uniform(0, np.pi), int(rng.integers(2, 5))
    for angle in turn + np.arange(count) * np.pi / count:
        arm = np.array([np.cos(angle), np.sin(angle)]) * radius
        _stroke(mask, np.stack([center - arm, center + arm]), thickness)


def _specks(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """A handful of dots around one place."""
    size = mask.shape[0]
    spots = rng.normal(rng.uniform(0.1, 0.9, 2), 0.08, size=(int(rng.integers(4, 14)), 2)) * size
    for x, y in np.round(spots * 16).astype(int).tolist():
        cv2.circle(mask, (x, y), int(rng.uniform(0.8, 3.0) * 16), 255, -1, cv2.LINE_AA, shift=4)


_CLUTTER: tuple[Callable[[np.random.Generator, NDArray[np.uint8]], None], ...] = (
    _line,
    _wave,
    _blob,
    _cross,
    _specks,
)
