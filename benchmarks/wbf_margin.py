"""How well defined weighted boxes fusion is on one image.

Stock WBF averages in float32 and sorts unstably, so its result on an input
means something only if no decision hangs on the last digits. This walks
through the same decisions in float64, plainly and slowly, and says how close
the closest one was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENOUGH = 2e-5  # float32 boxes as fractions of the image, of at least 1 % of its side, err by less in IoU


def margin(boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], iou: float) -> float:
    """The smallest gap that decides something.

    Args:
        boxes: (N, 4) of all teachers, as fractions of the image.
        scores: (N,) times the weight of the teacher.
        classes: (N,)
        iou: The threshold.

    Returns:
        The least of: differences of an IoU to the threshold, of the best IoU to
        the second best, of two scores of a class; infinity if none decides.
    """
    smallest = np.inf
    for class_id in np.unique(classes):
        rows = np.flatnonzero(classes == class_id)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        smallest = min(smallest, -np.diff(scores[rows]).max(initial=-np.inf))
        smallest = min(smallest, _group(boxes[rows].astype(np.float64), scores[rows], iou))
    return float(smallest)


def _group(boxes: NDArray[np.float64], scores: NDArray[Any], iou: float) -> float:
    smallest = np.inf
    members: list[list[int]] = []
    centres = np.empty((0, 4))
    for row, box in enumerate(boxes):
        overlaps = ious(centres, box)
        best = np.sort(overlaps)[::-1]
        if len(best):
            smallest = min(smallest, abs(best[0] - iou))
        if len(best) > 1 and best[0] > iou:
            smallest = min(smallest, best[0] - best[1])
        if len(best) and best[0] > iou:
            chosen = int(np.argmax(overlaps))
            members[chosen].append(row)
            centres[chosen] = _mean(boxes, scores, members[chosen])
        else:
            members.append([row])
            centres = np.vstack([centres, box])
    return float(smallest)


def _mean(boxes: NDArray[np.float64], scores: NDArray[Any], rows: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(np.average(boxes[rows], axis=0, weights=scores[rows]))


def ious(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of (N, 4) boxes with one."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / (areas - shared))
