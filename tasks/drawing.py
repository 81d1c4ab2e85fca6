"""Boxes and labels on pictures, drawn with supervision's annotators."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from composition.detections import Detections

# bright enough for photographs and far apart from each other
_COLORS = (
    "#ff5a5f",
    "#ffa62b",
    "#ffe14d",
    "#a8e05f",
    "#2ecc85",
    "#21d4d4",
    "#5cb8ff",
    "#5a78ff",
    "#b38bff",
    "#ff7ac6",
    "#d9a679",
    "#b8c4d6",
)
_IGNORED = "#e5e7eb"


def class_colors(count: int) -> list[str]:
    """One ``#rrggbb`` colour a class, the same for the same index everywhere."""
    colors = list(_COLORS[:count])
    for index in range(len(colors), count):
        # the golden angle keeps neighbours apart however many classes there are
        hue, saturation = index * 0.618034 % 1, (0.75, 0.5)[index % 2]
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, 0.97))
        colors.append(f"#{red:02x}{green:02x}{blue:02x}")
    return colors


def draw_detections(
    image: NDArray[np.uint8],
    detections: Detections,
    classes: Sequence[str],
    *,
    text_scale: float = 1.0,
    colors: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Draws boxes with class name and score.

    Args:
        image: (height, width, 3) uint8 RGB; not changed.
        detections: Boxes in pixels of the image; all rows are drawn, whatever
            their ``image_id``. The surest box lies on top.
        classes: Names that ``class_id`` indexes; they decide the colours, too.
        text_scale: Factor on the size of the labels, which is about a
            fortieth of the longer side.
        colors: ``#rrggbb`` of every class; default: `class_colors`.

    Returns:
        A new image of the same size.
    """
    if not len(detections):
        return image.copy()
    rows = detections[np.argsort(detections.score, kind="stable")]
    names = [f"{classes[c]} {score:.2f}" for c, score in zip(rows.class_id, rows.score.tolist(), strict=True)]
    tints = class_colors(len(classes)) if colors is None else list(colors)
    palette = sv.ColorPalette.from_hex(tints)
    found = sv.Detections(xyxy=rows.boxes.copy(), confidence=rows.score, class_id=rows.class_id.astype(int))
    boxes = sv.BoxAnnotator(color=palette, thickness=_thickness(image))
    drawn = boxes.annotate(_swapped(image), found)
    ink = sv.ColorPalette.from_hex([_ink_on(color) for color in tints])
    return _swapped(_label(drawn, found, names, palette, ink, text_scale))


def draw_ignored(image: NDArray[np.uint8], regions: Detections) -> NDArray[np.uint8]:
    """Marks ignore regions by pale corners.

    Args:
        image: (height, width, 3) uint8 RGB; not changed.
        regions: Boxes in pixels of the image.

    Returns:
        A new image of the same size.
    """
    if not len(regions):
        return image.copy()
    color = sv.Color.from_hex(_IGNORED)
    found = sv.Detections(xyxy=regions.boxes.copy(), class_id=np.zeros(len(regions), int))
    corner = max(4, max(image.shape[:2]) // 40)
    annotator = sv.BoxCornerAnnotator(color=color, thickness=_thickness(image), corner_length=corner)
    return _swapped(np.asarray(annotator.annotate(_swapped(image), found), np.uint8))


def draw_frames(image: NDArray[np.uint8], boxes: Detections, color: str) -> NDArray[np.uint8]:
    """Draws boxes of one colour without text; returns a new image of the same size."""
    found = sv.Detections(xyxy=boxes.boxes.copy(), class_id=np.zeros(len(boxes), int))
    annotator = sv.BoxAnnotator(color=sv.Color.from_hex(color), thickness=max(2, _thickness(image)))
    return _swapped(annotator.annotate(_swapped(image), found))


def draw_dashed(
    image: NDArray[np.uint8], regions: Detections, color: str, *, hatched: bool
) -> NDArray[np.uint8]:
    """Marks regions by dashed outlines.

    Args:
        image: (height, width, 3) uint8 RGB; not changed.
        regions: Boxes in pixels of the image.
        color: ``#rrggbb``.
        hatched: Also fills them with diagonal stripes.

    Returns:
        A new image of the same size.
    """
    if not len(regions):
        return image.copy()
    found = sv.Detections(xyxy=regions.boxes.copy(), class_id=np.zeros(len(regions), int))
    paint, thickness = sv.Color.from_hex(color), max(2, _thickness(image))
    height, width = image.shape[:2]
    diagonal = np.add.outer(np.arange(height), np.arange(width))[..., None]
    drawn = _swapped(image)
    if hatched:
        filled = sv.ColorAnnotator(color=paint, opacity=0.7).annotate(drawn.copy(), found)
        drawn = np.where(diagonal % (6 * thickness) < thickness, filled, drawn)
    outlined = sv.BoxAnnotator(color=paint, thickness=thickness).annotate(drawn.copy(), found)
    return _swapped(np.where(diagonal % (8 * thickness) < 5 * thickness, outlined, drawn))


def _swapped(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy with red and blue exchanged: supervision draws on BGR arrays."""
    return np.ascontiguousarray(image[..., ::-1])


def _label(
    image: NDArray[np.uint8],
    found: sv.Detections,
    names: list[str],
    palette: sv.ColorPalette,
    ink: sv.ColorPalette,
    text_scale: float,
) -> NDArray[np.uint8]:
    size = max(10, round(max(image.shape[:2]) / 40 * text_scale))
    annotator = sv.RichLabelAnnotator(
        color=palette,
        text_color=ink,
        font_path=str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"),
        font_size=size,
        text_padding=max(2, size // 4),
        smart_position=True,
    )
    return np.asarray(annotator.annotate(image, found, names), np.uint8)


def _thickness(image: NDArray[np.uint8]) -> int:
    return max(1, round(max(image.shape[:2]) / 220))


def _ink_on(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#101418" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "#ffffff"
