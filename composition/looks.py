"""What one detector sees in two looks at the same pictures, as one table (ours).

Several looks are a better detection than one (test-time augmentation; on unlabeled images
Radosavovic et al., "Data Distillation", CVPR 2018). A mean of the scores, as in weighted boxes
fusion, punishes what only one of them can show well, a distant object for example; so here the surer
look is believed, and a little less where the other could have seen the box, too, and has not.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.fusion.expert import Expert

SAME_IOU = 0.6
"""From this IoU on, boxes of two looks are one; that of `composition.fusion.expert`."""
ALONE = 0.7
"""Factor on the score of a box that only one look has. With a mirror, factors from 0.5 to 0.85 differ by less
than 0.1 AP in the mean of six detectors on COCO, of five on cards and of five on blood cells."""


def merged(
    first: Detections,
    other: Detections,
    most: int,
    *,
    classes: Collection[int] | None = None,
    shown: NDArray[np.bool_] | None = None,
) -> Detections:
    """Joins two looks.

    Args:
        first: What is seen on the pictures.
        other: What is seen in another look at them, in their pixels.
        most: Boxes per picture, the best by score.
        classes: Those to join; boxes of ``first`` of others stay as they are. None: all.
        shown: (N,) which rows of ``first`` the other look can show at all. None: all, and both looks
            show the same.

    Returns:
        The boxes, sorted. A box of both looks is their mean weighted by the odds of their scores and
        has the higher score; of one that a single look has, the score is times `ALONE`, unless the
        other look cannot show it. ``spread`` is 1 - IoU with the look from which a box is farther, 1
        where a look that shows the same has none, and at least what ``first`` had measured.
    """
    order = table.order(first)
    first, other, rest = first[order], table.sort(other), table.empty()
    can = np.ones(len(order), np.bool_) if shown is None else shown[order]
    if classes is not None:
        kept = np.isin(first.class_id, list(classes))
        first, can, rest = first[kept], can[kept], first[~kept]
        other = other[np.isin(other.class_id, list(classes))]
    pooled, clusters = Expert(SAME_IOU).clusters([first, other])
    own, theirs = (clusters.members >= 0).T
    row = pooled.row[clusters.members]  # of a look that has none, of any
    holder = np.where(own, row[:, 0], row[:, 1])
    both = own & theirs
    missed = ~both & np.append(can, np.ones(len(other), np.bool_))[holder]
    score = pooled.source.score[holder]
    score = np.where(both, np.maximum(score, pooled.source.score[row[:, 1]]), score)
    boxes = clusters.boxes.astype(np.float32)
    # what an enlarged look alone has is not unsteady: the other is too coarse to have it
    alone = np.where(missed & (own | (shown is None)), 1, np.nan)
    spread = np.where(both, _apart(boxes, pooled.source.boxes[row]).max(axis=1), alone)
    before = np.where(own, pooled.source.spread[holder], np.nan)
    joined = table.make(
        pooled.image_id[clusters.opener],
        boxes,
        np.where(missed, ALONE, 1) * score,
        pooled.class_id[clusters.opener],
        np.fmax(spread, before),
    )
    return table.strongest(table.concatenate([joined, rest]), most)


def _apart(boxes: NDArray[np.float32], members: NDArray[np.float32]) -> NDArray[np.float64]:
    """(M, 2) 1 - IoU of (M, 4) boxes with (M, 2, 4) others."""
    one, two = boxes[:, None].astype(np.float64), members.astype(np.float64)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    shared = sides.clip(0).prod(axis=2)
    areas = (one[..., 2:] - one[..., :2]).prod(axis=2) + (two[..., 2:] - two[..., :2]).prod(axis=2)
    return np.asarray(1 - shared / (areas - shared))
