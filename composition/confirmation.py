"""Which of a teacher's confident boxes the others confirm, as sums that add up over shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections

Counts = NDArray[np.int64]
CONFIDENT = 0.5
"""A raw score from which on a box is one that its teacher stands by, and is put to the others."""
CONFIRMING = 0.2
"""A box of another teacher confirms it from this raw score on."""
CONFIRMING_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Confirmations:
    """Questions and answers of T teachers about C union classes.

    `Statistics.agreement` weighs all boxes by their fused scores and needs
    these to be calibrated; confident boxes can be counted without.

    Attributes:
        asked: (T, T, C) int64, confident boxes of the first teacher, of classes
            that the second one can see.
        confirmed: (T, T, C) int64, those of them on which the second one has a
            box of the same class with IoU >= `CONFIRMING_IOU`.
    """

    asked: Counts
    confirmed: Counts

    def __add__(self, other: Confirmations) -> Confirmations:
        return Confirmations(self.asked + other.asked, self.confirmed + other.confirmed)


def confirmations(tables: Sequence[Detections], coverage: NDArray[np.bool_]) -> Confirmations:
    """Puts every teacher's confident boxes to every other teacher.

    Args:
        tables: One per teacher, in the union classes, on the images of a shard.
        coverage: (C, T) bool, who can see which class.
    """
    classes, teachers = coverage.shape
    asked = np.zeros((teachers, teachers, classes), np.int64)
    confirmed = np.zeros_like(asked)
    answers = [table[table.score >= np.float32(CONFIRMING)] for table in tables]
    for one, table in enumerate(tables):
        sure = table[table.score >= np.float32(CONFIDENT)]
        for two in range(teachers):
            if one == two:
                continue
            shared = sure[coverage[sure.class_id, two]]
            hit = confirmed_by(shared, answers[two], CONFIRMING_IOU)
            asked[one, two] = np.bincount(shared.class_id, minlength=classes)
            confirmed[one, two] = np.bincount(shared.class_id[hit], minlength=classes)
    return Confirmations(asked, confirmed)


def confirmed_by(detections: Detections, others: Detections, iou: float) -> NDArray[np.bool_]:
    """(N,) which rows overlap a row of another table of the same image and class by ``iou`` or more."""
    return overlaps(detections, others) >= iou


def overlaps(detections: Detections, others: Detections) -> NDArray[np.float64]:
    """(N,) largest IoU of each row with a row of another table of the same image and class; 0 without."""
    width = 1 + max(int(detections.class_id.max(initial=0)), int(others.class_id.max(initial=0)))
    theirs = others.image_id * width + others.class_id
    order = np.argsort(theirs, kind="stable")
    ours = detections.image_id * width + detections.class_id
    first, last = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    # every row beside every box of its group: long, flat columns instead of a loop over groups
    size = last - first
    row = np.repeat(np.arange(len(detections)), size)
    place = np.arange(len(row)) - np.repeat(np.cumsum(size) - size - first, size)
    a = detections.boxes[row].astype(np.float64)
    b = others.boxes[order[place]].astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    result = np.zeros(len(detections))
    np.maximum.at(result, row, shared / (areas - shared))
    return result
