"""Panels of a preview: one image as every teacher sees it, fused, and as pseudo-labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from composition import detections as table
from composition.detections import Detections
from composition.label_space import LabelSpace
from composition.pseudo_labels import PseudoLabels, as_detections
from tasks.drawing import draw_dashed, draw_detections, draw_frames
from tasks.preview import Seen

COLORS = ("#e69f00", "#56b4e9", "#f0e442", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
"""Okabe and Ito's colours, told apart with any kind of colour vision (jfly.uni-koeln.de/color, 2002)."""
OTHER = "#e5e7eb"
"""Of classes beyond the seven most frequent, and of those that the label space drops."""
IGNORED, FILTERED = "#ffffff", "#9ca3af"
PANEL = 640
"""Pixels of a panel's longer side: small pictures are enlarged, so that text on them can be read."""
LABELLED = 16
"""So many of the surest boxes of a panel have their class and score written on; the others only a frame."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with boxes.

    Attributes:
        title: Who says so.
        note: What is drawn, and what is not.
        picture: (height, width, 3) uint8 RGB.
    """

    title: str
    note: str
    picture: NDArray[np.uint8]


def colors_of(images: Sequence[Seen], space: LabelSpace) -> list[str]:
    """``#rrggbb`` by union class: one each for the classes with the most labels here."""
    count = Counter(int(c) for image in images for c in image.labels.class_id)
    order = sorted(range(len(space.classes)), key=lambda c: (-count[c], c))
    given = dict(zip(order, COLORS, strict=False))
    return [given.get(c, OTHER) for c in range(len(space.classes))]


def panels_of(
    image: Seen, pixels: NDArray[np.uint8], space: LabelSpace, colors: Sequence[str], score: float
) -> list[Panel]:
    """The panels of an image: every teacher, fused, pseudo-labels.

    Args:
        image: What is said about it.
        pixels: (height, width, 3) uint8 RGB, the image.
        space: The label space.
        colors: By union class.
        score: Boxes of teachers and of fusion below it are not drawn, but for those that were filtered.
    """
    canvas, factor = enlarged(pixels, PANEL)
    panels = []
    for name, found in image.teachers.items():
        entries = space.teachers[name]
        names = [entry.teacher_class for entry in entries]
        tints = [
            colors[space.classes.index(entry.targets[0])] if entry.targets else OTHER for entry in entries
        ]
        panels.append(_boxes(canvas, name, scaled(found, factor), names, tints, score))
    fused = scaled(image.fused, factor)
    panels.append(_boxes(canvas, "fused", fused, space.classes, colors, score))
    panels.append(_labels(canvas, image, factor, space, colors, score))
    return panels


def enlarged(pixels: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], float]:
    """The picture with a longer side of so many pixels, and the factor that boxes are to be taken by."""
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)), factor


def scaled(found: Detections, factor: float) -> Detections:
    """Detections in pixels of an enlarged picture."""
    return table.make(found.image_id, found.boxes * np.float32(factor), found.score, found.class_id)


def _boxes(
    canvas: NDArray[np.uint8],
    title: str,
    found: Detections,
    names: Sequence[str],
    colors: Sequence[str],
    score: float,
) -> Panel:
    drawn = found[found.score >= np.float32(score)]
    weaker = len(found) - len(drawn)
    note = counted(len(drawn), "box", "boxes")
    note += f", {weaker} weaker than {score:g} not drawn" if weaker else ""
    return Panel(title, note, _drawn(canvas, drawn, names, colors))


def _drawn(
    canvas: NDArray[np.uint8], found: Detections, names: Sequence[str], colors: Sequence[str]
) -> NDArray[np.uint8]:
    """All boxes, the surest with class and score."""
    order = np.argsort(-found.score, kind="stable")
    picture = canvas
    for class_id in np.unique(found.class_id[order[LABELLED:]]).tolist():
        rest = found[order[LABELLED:]]
        picture = draw_frames(picture, rest[rest.class_id == class_id], colors[class_id])
    crowded = 0.78 if len(found) > LABELLED // 2 else 0.95
    return draw_detections(picture, found[order[:LABELLED]], names, text_scale=crowded, colors=colors)


def _labels(
    canvas: NDArray[np.uint8],
    image: Seen,
    factor: float,
    space: LabelSpace,
    colors: Sequence[str],
    score: float,
) -> Panel:
    filtered = image.filtered
    shown = filtered[filtered.score >= np.float32(score / 2)]
    picture = draw_dashed(canvas, scaled(shown, factor), FILTERED, hatched=False)
    ignored = scaled(regions(image.ignored), factor)
    picture = draw_dashed(picture, ignored, IGNORED, hatched=True)
    positive = scaled(as_detections(image.labels), factor)
    picture = _drawn(picture, positive, space.classes, colors)
    note = f"{counted(len(positive), 'label')}, {counted(len(ignored), 'ignore region')}, "
    note += f"{len(filtered)} filtered"
    if len(filtered) > len(shown):
        note += f" ({len(shown)} drawn, from {score / 2:g})"
    return Panel("pseudo-labels", note, picture)


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 label``, ``2 labels``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def regions(labels: PseudoLabels) -> Detections:
    """Labels of any kind as detections."""
    return table.make(labels.image_id, labels.boxes, labels.weight, labels.class_id)
