"""What diagnostics need to know of a pool of images, as sums that add up over shards.

The size depends on the numbers of teachers and classes alone, never on that of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections

Counts = NDArray[np.int64]
BINS = 100
"""Bins of every score histogram: equal, over [0, 1], so that thresholds of two decimals are edges."""
CONFIDENT = 0.5
"""From here on a box is one that its teacher stands by, and is put to the others."""
CONFIRMING = 0.2
"""A box of another teacher confirms it from here on."""
CONFIRMING_IOU = 0.5


@dataclass(frozen=True, slots=True)
class PoolSums:
    """Sums over a part of a pool; C union classes, T teachers, B = `BINS`.

    Attributes:
        images: () int64, images looked at.
        raw: (T, C, B) int64, boxes of each teacher by class and raw score.
        fused: (C, B) int64, fused boxes by class and score.
        seen: (C,) int64, images with a fused box of the class.
        asked: (T, T, C) int64, confident boxes of the first teacher of classes
            that the second one can see.
        confirmed: (T, T, C) int64, those of them on which the second one has a
            box of the same class.
    """

    images: Counts
    raw: Counts
    fused: Counts
    seen: Counts
    asked: Counts
    confirmed: Counts

    def __add__(self, other: PoolSums) -> PoolSums:
        return PoolSums(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(PoolSums))
        )


def collect(
    tables: Sequence[Detections], fused: Detections, coverage: NDArray[np.bool_], images: int
) -> PoolSums:
    """The sums of a shard.

    Args:
        tables: One per teacher, in the union classes.
        fused: What a fuser made of them.
        coverage: (C, T) bool, who can see which class.
        images: Images of the shard, those without boxes too.
    """
    classes, teachers = coverage.shape
    asked = np.zeros((teachers, teachers, classes), np.int64)
    confirmed = np.zeros_like(asked)
    for one, table in enumerate(tables):
        sure = table[table.score >= np.float32(CONFIDENT)]
        for two, other in enumerate(tables):
            if one == two:
                continue
            shared = sure[coverage[sure.class_id, two]]
            asked[one, two] = np.bincount(shared.class_id, minlength=classes)
            hit = confirmed_by(shared, other[other.score >= np.float32(CONFIRMING)], CONFIRMING_IOU)
            confirmed[one, two] = np.bincount(shared.class_id[hit], minlength=classes)
    places = np.unique(np.stack([fused.class_id.astype(np.int64), fused.image_id]), axis=1)
    return PoolSums(
        np.array(images, np.int64),
        np.stack([histograms(table, classes) for table in tables]),
        histograms(fused, classes),
        np.bincount(places[0], minlength=classes).astype(np.int64),
        asked,
        confirmed,
    )


def histograms(detections: Detections, classes: int) -> Counts:
    """(C, B) rows by class and score; bin b holds scores from b / B on, the last also 1."""
    # the small step: float32(0.7) lies below 0.7, but a threshold of 0.7 keeps it
    place = (detections.score.astype(np.float64) * BINS + 1e-4).astype(np.int64)
    flat = detections.class_id.astype(np.int64) * BINS + np.clip(place, 0, BINS - 1)
    return np.bincount(flat, minlength=classes * BINS).astype(np.int64).reshape(classes, BINS)


def confirmed_by(detections: Detections, others: Detections, iou: float) -> NDArray[np.bool_]:
    """(N,) which rows overlap a row of another table of the same image and class by ``iou`` or more."""
    first, last = _ranges(detections, others)
    size = last - first
    row = np.repeat(np.arange(len(detections)), size)
    place = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(first, size)
    order = _order(others)
    a = detections.boxes[row].astype(np.float64)
    b = others.boxes[order[place]].astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    result = np.zeros(len(detections), np.bool_)
    result[row[shared >= iou * (areas - shared)]] = True
    return result


def _order(table: Detections) -> NDArray[np.intp]:
    rows: NDArray[np.intp] = np.lexsort((table.class_id, table.image_id))
    return rows


def _ranges(detections: Detections, others: Detections) -> tuple[Counts, Counts]:
    """(N,) first and end place, in `_order` of the others, of the rows with a row's image and class."""
    width = 1 + max(int(detections.class_id.max(initial=0)), int(others.class_id.max(initial=0)))
    order = _order(others)
    theirs = others.image_id[order] * width + others.class_id[order]
    ours = detections.image_id * width + detections.class_id
    first, last = (np.searchsorted(theirs, ours, side) for side in ("left", "right"))
    return first.astype(np.int64), last.astype(np.int64)
