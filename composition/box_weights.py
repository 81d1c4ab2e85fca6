"""Learning how much each teacher's box should weigh in a fused box (ours).

The box of a cluster is the mean of its members with the weights

    w_t ∝ exp(trust_t + sharpness · l_t),   l_t the logit of the calibrated score,

and AP asks for nothing but its IoU with the object. So the numbers are those
with the highest

    Σ over objects IoU(fused box, object) - 0.15 (Σ trust_t² + (sharpness - 1)²)

on the labelled objects that at least two teachers found. Inverse variances would
be right if the teachers' errors were independent; they are not: errors of
detectors on the same object correlate, by 0.3 to 0.5 on COCO photographs, and a
weak teacher then deserves less than its variance says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from composition import detections as table
from composition.fusion.base import Pool
from composition.fusion.clusters import Clusters
from composition.fusion.expert import logit
from composition.matching import Objects, match

RIDGE = 0.15
MINIMUM_IOU = 0.45
"""Clusters that overlap their object less are no attempt at it."""


def fit_box_weights(pooled: Pool, clusters: Clusters, truth: Objects) -> tuple[NDArray[np.float64], float]:
    """Fits the weights of boxes on labelled images.

    Args:
        pooled: Rows of T teachers, ranked by calibrated score.
        clusters: Their clusters.
        truth: The labels.

    Returns:
        (T,) float64 ``trust`` and ``sharpness``; 0 and 1 where nothing can be learned.
    """
    opener = clusters.opener
    found = match(
        table.make(pooled.image_id[opener], clusters.boxes, pooled.score[opener], pooled.class_id[opener]),
        truth,
    )
    several = (clusters.members >= 0).sum(axis=1) > 1
    rows = _best_of_each(found.nearest, found.iou)
    rows = rows[several[rows] & (found.iou[rows] >= MINIMUM_IOU)]
    start = np.append(np.zeros(pooled.num_teachers), 1.0)
    if not len(rows):
        return start[:-1], 1.0
    members = clusters.members[rows]
    present = members >= 0
    boxes, logits = pooled.boxes[members], logit(pooled.rank[members])
    target = truth.boxes[found.nearest[rows]]

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        away = values - start
        total, slope = _overlap(values, boxes, logits, present, target)
        return float(RIDGE * (away**2).sum() - total), 2 * RIDGE * away - slope

    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return np.asarray(fitted[:-1]), float(fitted[-1])


def _best_of_each(nearest: NDArray[np.int64], overlap: NDArray[np.float64]) -> NDArray[np.int64]:
    """For every object the row that overlaps it most; the first of equals."""
    order = np.lexsort((np.arange(len(nearest)), -overlap, nearest))
    order = order[nearest[order] >= 0]
    return np.asarray(order[np.diff(nearest[order], prepend=-1) != 0])


def _overlap(
    values: NDArray[np.float64],
    boxes: NDArray[np.float64],
    logits: NDArray[np.float64],
    present: NDArray[np.bool_],
    target: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Σ IoU over M fused boxes, and its gradient in the T + 1 values."""
    power = np.where(present, values[:-1] + values[-1] * logits, -np.inf)
    weight = np.exp(power - power.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    fused = (weight[:, :, None] * boxes).sum(axis=1)
    iou, slope = _iou_and_slope(fused, target)
    # d fused / d power_t = weight_t (box_t - fused)
    pull = weight * ((boxes - fused[:, None]) * slope[:, None]).sum(axis=2)
    return float(iou.sum()), np.append(pull.sum(axis=0), (pull * np.where(present, logits, 0)).sum())


def _iou_and_slope(
    box: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(M,) IoU of pairs of boxes, and (M, 4) its derivative in the first one's corners."""
    low, high = np.maximum(box[:, :2], target[:, :2]), np.minimum(box[:, 2:], target[:, 2:])
    inside = np.clip(high - low, 0, None)
    size, other = box[:, 2:] - box[:, :2], target[:, 2:] - target[:, :2]
    shared = inside.prod(axis=1)
    union = size.prod(axis=1) + other.prod(axis=1) - shared
    touches = (shared > 0)[:, None]
    shared_slope = np.concatenate(
        [-inside[:, ::-1] * (box[:, :2] > target[:, :2]), inside[:, ::-1] * (box[:, 2:] < target[:, 2:])],
        axis=1,
    )
    area_slope = np.concatenate([-size[:, ::-1], size[:, ::-1]], axis=1)
    # (I / U)' = (I' U - I U') / U² with U' = A' - I'
    slope = shared_slope * (union + shared)[:, None] - area_slope * shared[:, None]
    return shared / union, np.where(touches, slope / (union**2)[:, None], 0)
