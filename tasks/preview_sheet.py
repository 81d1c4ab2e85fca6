"""A contact sheet of a class: crops of its labels from the surest to the least, and of what is ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from composition import detections as table
from composition.label_space import LabelSpace
from composition.pseudo_labels import IGNORE, PseudoLabels
from tasks.contact_sheet import font, window
from tasks.drawing import draw_dashed, draw_frames
from tasks.preview import Seen
from tasks.preview_drawing import IGNORED

CELL, GAP, LINE = 216, 12, 40
COLUMNS = 6
LABELS, IGNORE_REGIONS = 18, 6
"""Crops of a sheet."""
_INK, _PALE, _PAPER = "#14181d", "#5b6570", "#ffffff"


@dataclass(frozen=True, slots=True)
class Crop:
    """One box of a class: the image and the row of its labels."""

    image: Seen
    row: int

    @property
    def label(self) -> PseudoLabels:
        """The one label."""
        return self.image.labels[[self.row]]


def crops_of(images: Sequence[Seen], class_id: int) -> tuple[list[Crop], int, int]:
    """The crops to show of a class, and how many labels and ignore regions there are.

    Of many labels those are taken that divide the order of their weights evenly,
    so that the least sure are always among them.
    """
    rows = [
        Crop(image, row)
        for image in images
        for row in np.flatnonzero(image.labels.class_id == class_id).tolist()
    ]
    rows.sort(key=lambda crop: -float(crop.label.weight[0]))
    ignored = [crop for crop in rows if crop.label.kind[0] == IGNORE]
    labels = [crop for crop in rows if crop.label.kind[0] != IGNORE]
    return _spread(labels, LABELS) + _spread(ignored, IGNORE_REGIONS), len(labels), len(ignored)


def _spread(crops: Sequence[Crop], count: int) -> list[Crop]:
    if len(crops) <= count:
        return list(crops)
    return [crops[round(place)] for place in np.linspace(0, len(crops) - 1, count)]


def sheet(
    crops: Sequence[Crop], pixels: dict[str, NDArray[np.uint8]], space: LabelSpace, color: str
) -> NDArray[np.uint8]:
    """Draws crops in rows.

    Args:
        crops: What to show.
        pixels: Path of an image to its (height, width, 3) uint8 RGB pixels.
        space: The label space.
        color: ``#rrggbb`` of the class.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    columns = min(COLUMNS, len(crops))
    rows = -(-len(crops) // COLUMNS)
    size = (columns * (CELL + GAP) - GAP, rows * (CELL + LINE + GAP) - GAP)
    paper = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(paper)
    for number, crop in enumerate(crops):
        left = number % COLUMNS * (CELL + GAP)
        top = number // COLUMNS * (CELL + LINE + GAP)
        paper.paste(Image.fromarray(_cut(crop, pixels[crop.image.record.path], space, color)), (left, top))
        first, second = _caption(crop, list(space.teachers))
        draw.text((left, top + CELL + 4), _fitting(draw, first, 13), _INK, font(13, bold=True))
        draw.text((left, top + CELL + 21), _fitting(draw, second, 12), _PALE, font(12))
    return np.asarray(paper)


def _caption(crop: Crop, teachers: Sequence[str]) -> tuple[str, str]:
    label = crop.label
    mask, scores = int(label.teachers[0]), label.scores[0].tolist()
    said = [f"{name} {scores[t]:.2f}" for t, name in enumerate(teachers) if mask >> t & 1]
    kind = "ignored" if label.kind[0] == IGNORE else "label"
    return f"{kind} {label.weight[0]:.2f}", ", ".join(said)


def _fitting(draw: ImageDraw.ImageDraw, text: str, size: int) -> str:
    while draw.textlength(text, font(size, bold=size == 13)) > CELL and len(text) > 2:
        text = text[:-2].rstrip("…") + "…"
    return text


def _cut(crop: Crop, image: NDArray[np.uint8], space: LabelSpace, color: str) -> NDArray[np.uint8]:
    label = crop.label
    left, top, side = window(label.boxes, image.shape[1], image.shape[0])
    canvas = Image.new("RGB", (side, side), "#e5e7eb")
    canvas.paste(Image.fromarray(image), (-left, -top))
    square = np.asarray(canvas.resize((CELL, CELL), Image.Resampling.LANCZOS))
    corners = (label.boxes - np.array([left, top, left, top], np.float32)) * np.float32(CELL / side)
    box = table.make([0], np.clip(corners, 1, CELL - 2), label.weight, [0])
    if label.kind[0] == IGNORE:
        return draw_dashed(square, box, IGNORED, hatched=True)
    return draw_frames(square, box, color)
