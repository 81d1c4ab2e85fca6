"""Showing a picture in the mirror, too.

A mirror changes some classes, such as digits or arrows: whether it does is told without labels
(ours), by whether it confirms fewer boxes than a harmless disturbance (`composition.second_look`)
does. What becomes of both looks: `composition.looks`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from composition.confirmation import CONFIRMING_IOU, overlaps
from composition.detections import Detections

FAITHFUL = 0.8
"""Share of what the border confirms that the mirror must confirm. COCO's, VOC's and our cards' and
blood cells' classes have 0.89 to 1.3; of the digits only 0, 1 and 8 have more than 0.61."""
PRIOR = 3.0
"""Boxes, counted by score, that a class is believed to be like all of its teacher's."""


def turned_back(mirrored: Detections, widths: NDArray[np.int64]) -> Detections:
    """Detections on pictures that were flipped left to right, in the pixels of the pictures.

    Args:
        mirrored: Rows whose ``image_id`` is an index into ``widths``.
        widths: (M,) widths in pixels.
    """
    width = np.asarray(widths, np.float32)[mirrored.image_id]
    boxes = mirrored.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - mirrored.boxes[:, 2], width - mirrored.boxes[:, 0]
    return replace(mirrored, boxes=boxes)


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What the mirror confirms of a teacher, relative to what the border confirms.

    Attributes:
        overall: For all classes together; NaN without a single confirmed box.
        by_class: (C,) float64 by class of the teacher, drawn to ``overall`` where there is little.
    """

    overall: float
    by_class: NDArray[np.float64]

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes that may be looked at in the mirror; none where most of the teacher's change in it."""
        if not self.overall >= FAITHFUL:
            return ()
        return tuple(np.flatnonzero(self.by_class >= FAITHFUL).tolist())


def faithfulness(first: Detections, border: Detections, mirror: Detections, classes: int) -> Faithfulness:
    """Compares two further looks of a teacher at the same pictures.

    Args:
        first: What it sees on the pictures.
        border: The same with a border (`composition.second_look`).
        mirror: The same in the mirror, turned back.
        classes: Length of its vocabulary.

    Returns:
        For each class the sums of the scores of the boxes that the mirror confirms, over those that
        the border confirms, both with `PRIOR` boxes of the overall ratio added.
    """

    def confirmed(look: Detections) -> NDArray[np.float64]:
        hit = overlaps(first, look) >= CONFIRMING_IOU
        return np.asarray(np.bincount(first.class_id, first.score * hit, classes), np.float64)

    by_border, by_mirror = confirmed(border), confirmed(mirror)
    if not by_border.sum():
        return Faithfulness(np.nan, np.full(classes, np.nan))
    overall = float(by_mirror.sum() / by_border.sum())
    return Faithfulness(overall, (by_mirror + PRIOR * overall) / (by_border + PRIOR))
