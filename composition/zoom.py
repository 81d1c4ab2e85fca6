"""Showing a picture in four overlapping parts, each as large as the whole: small objects become large.

Detectors miss what covers few pixels of their input (Akyon et al., "Slicing Aided Hyper Inference",
ICIP 2022, cut pictures up for that). Boxes that a part cuts are dropped: the whole picture shows them.
Whether a detector can do with larger objects is told without labels (ours): enlarged, its boxes must
stay nearly as true to the first look as under a harmless disturbance (`composition.second_look`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.confirmation import CONFIRMING_IOU, overlaps
from composition.detections import Detections
from composition.fusion.nms import Nms

Zoom = Literal["zoom60", "zoom75"]
SHARES: dict[Zoom, float] = {"zoom60": 0.60, "zoom75": 0.75}
"""The part's share of the picture's sides, the stronger zoom first."""
PARTS = 4
CUT = 0.015
"""A box nearer to the edge of its part, in shares of the part's sides, is taken for cut off."""
_SAME_IOU = 0.5  # boxes of two parts that overlap so far are one
UNSTEADY = 1.6
"""So much farther than the border may a zoom move boxes. Detectors that gain by it have 1.0 to 1.5; those
of blood cells, which have one size, 1.9 to 2.6 with parts of 60 %, lose by it, and 1.3 to 1.5 with 75 %."""
CONFIRMED = 0.5
"""Share of what the border confirms that a zoom must confirm; those that gain have 0.54 or more."""


def windows(sizes: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The parts of pictures.

    Args:
        sizes: (M, 2) widths and heights in pixels.
        share: Of each side of the picture, that of a part.

    Returns:
        (`PARTS`, M, 4) x1 y1 x2 y2 in pixels.
    """
    part = np.maximum(np.rint(share * sizes), 1).astype(np.int64)
    left = sizes - part
    corners = [left * [column, row] for row in (0, 1) for column in (0, 1)]
    return np.stack([np.concatenate([low, low + part], axis=1) for low in corners])


def joined(found: Sequence[Detections], sizes: NDArray[np.int64], share: float, most: int) -> Detections:
    """What is seen on the parts, in the pixels of the pictures.

    Args:
        found: `PARTS` tables, in pixels of the parts; ``image_id`` is an index into ``sizes``.
        sizes: (M, 2) widths and heights of the pictures.
        share: See `windows`.
        most: Boxes per picture, the best by score.

    Returns:
        The boxes that no part cuts, those that several parts have once; sorted.
    """
    moved = []
    for rows, window in zip(found, windows(sizes, share), strict=True):
        own, size = window[rows.image_id], sizes[rows.image_id]
        low = np.tile(own[:, :2], 2)
        place = replace(rows, boxes=(rows.boxes + low).astype(np.float32))
        moved.append(place[_whole(place.boxes, own, size)])
    clipped = table.clip(table.concatenate(moved), sizes[:, 0], sizes[:, 1])
    return table.strongest(Nms(iou=_SAME_IOU).fuse([table.sort(clipped)]).detections, most)


def can_show(boxes: NDArray[np.float32], sizes: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """(N,) whether any part shows a box as a whole.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 in pixels.
        sizes: (N, 2) width and height of the picture of each.
        share: See `windows`.
    """
    parts = [_whole(boxes, window, sizes) for window in windows(sizes, share)]
    return np.asarray(np.logical_or.reduce(parts))


def _whole(
    boxes: NDArray[np.float32], window: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(N,) which boxes end inside their window, or where the picture ends, too."""
    margin = CUT * (window[:, 2:] - window[:, :2])
    first = (boxes[:, :2] >= window[:, :2] + margin) | (window[:, :2] == 0)
    last = (boxes[:, 2:] <= window[:, 2:] - margin) | (window[:, 2:] == sizes)
    return np.asarray((first & last).all(axis=1))


def steady(first: Detections, border: Detections, zoom: Detections) -> tuple[float, float]:
    """Compares two further looks of a teacher at the same pictures; see `is_steady`.

    Args:
        first: What it sees on the pictures, of that the boxes that the zoom `can_show`.
        border: The same with a border (`composition.second_look`).
        zoom: The same on the parts, `joined`.

    Returns:
        How far boxes that both looks confirm are from the zoom's, mean 1 - IoU, over how far they are
        from the border's; and the share of what the border confirms that the zoom confirms. Boxes count
        by their score. NaN where there are none.
    """
    by_border, by_zoom = overlaps(first, border), overlaps(first, zoom)
    hit = by_border >= CONFIRMING_IOU
    confirmed = float(first.score @ hit)
    both = hit & (by_zoom >= CONFIRMING_IOU)
    apart, shared = float((1 - by_border[both]) @ first.score[both]), float(first.score @ both)
    if not apart:
        return np.nan, np.nan
    return float((1 - by_zoom[both]) @ first.score[both]) / apart, shared / confirmed


def is_steady(moves: float, confirmed: float) -> bool:
    """Whether what `steady` found allows that zoom."""
    return moves <= UNSTEADY and confirmed >= CONFIRMED
