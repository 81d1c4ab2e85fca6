"""Learning from a few labelled images what every teacher's score and silence are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.box_weights import fit_box_weights
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.expert import Expert, Expertise
from composition.matching import Objects, match

MINIMUM_OBJECTS = 20


def calibrate_curve(detections: Detections, truth: Objects) -> Expertise:
    """Calibration curve of one teacher.

    The isotonic regression of `Matches.quality` (the expected share of COCO's
    IoU thresholds at which a box is right, of which AP is the mean, too) on the
    score.

    Args:
        detections: Its detections on the labelled images, in the union classes.
        truth: The labels.
    """
    found = match(detections, truth)
    if not found.counted.any():
        return Expertise()
    return Expertise(*rising_curve(detections.score[found.counted], found.quality[found.counted]))


def rising_curve(
    score: NDArray[np.float32], quality: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots at the middle of every step of the isotonic regression, and at (0, 0) and (1, 1).

    The steps themselves would tie most scores, and AP is all about order.
    """
    # scikit-learn takes a second to import, and planning a composition does without
    from sklearn.isotonic import IsotonicRegression

    score = score.astype(np.float64)
    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(score, quality)
    levels, step = np.unique(fitted, return_inverse=True)
    middle = np.bincount(step, score) / np.bincount(step)
    inner = (middle > 0) & (middle < 1)
    return (0.0, *middle[inner].tolist(), 1.0), (0.0, *levels[inner].tolist(), 1.0)


def calibrate(
    tables: Sequence[Detections], coverage: NDArray[np.bool_], truth: Objects, iou: float = 0.6
) -> Expert:
    """Fits an `Expert` fuser on labelled images.

    After every teacher's own curve come the weights of its boxes, see
    `composition.box_weights`, and then those of the fused score: they are those of
    a logistic regression of the clusters' quality on the teachers' evidence
    (L2, C = 1). Factors on logits are held at 0 or above, so that a higher
    score never lowers the fused one; a factor that comes out negative is
    removed and the rest fitted again.

    Args:
        tables: One per teacher, in the union classes, on the labelled images.
        coverage: (C, T) bool, who can see which class.
        truth: The labels of the same images.
        iou: See `Expert.iou`.

    Raises:
        UserError: Fewer than `MINIMUM_OBJECTS` labelled objects.
    """
    if len(truth) < MINIMUM_OBJECTS:
        raise UserError(
            f"{len(truth)} labelled objects are too few to calibrate on",
            f"Give images with at least {MINIMUM_OBJECTS} objects of the teachers' classes.",
        )
    curves = tuple(calibrate_curve(part, truth) for part in tables)
    sees = tuple(tuple(map(bool, row)) for row in coverage)
    fuser = Expert(iou, curves, sees)
    trust, sharpness = fit_box_weights(*fuser.clusters(tables), truth)
    weighed = tuple(replace(one, trust=float(value)) for one, value in zip(curves, trust, strict=True))
    fuser = replace(fuser, expertise=weighed, sharpness=sharpness)
    pooled, clusters = fuser.clusters(tables)
    logits, present, silent = fuser.evidence(pooled, clusters)
    known = np.where(present, logits, 0)
    best = np.where(present, logits, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    # which box of an object counts is settled by all the evidence for it
    strength = 1 / (1 + np.exp(-np.where(present, logits, logits.min(initial=0)).mean(axis=1)))
    fused = table.make(
        pooled.image_id[clusters.opener], clusters.boxes, strength, pooled.class_id[clusters.opener]
    )
    found = match(fused, truth)
    teachers = len(tables)
    features = np.concatenate([known, best, present, silent], axis=1)
    weights, bias = _regression(features[found.counted], found.quality[found.counted], teachers + 1)
    expertise = tuple(
        replace(
            curve,
            agreement=float(weights[t]),
            presence=float(weights[teachers + 1 + t]),
            silence=float(weights[2 * teachers + 1 + t]),
        )
        for t, curve in enumerate(weighed)
    )
    return replace(fuser, expertise=expertise, bias=bias, best=float(weights[teachers]))


def _regression(
    features: NDArray[np.float64], target: NDArray[np.float64], positive: int
) -> tuple[NDArray[np.float64], float]:
    """Logistic regression on fractional targets; the first ``positive`` weights are not negative."""
    from sklearn.linear_model import LogisticRegression

    weights, used = np.zeros(features.shape[1]), np.ones(features.shape[1], np.bool_)
    rows = np.concatenate([features, features])
    labels = np.repeat([1, 0], len(target))
    mass = np.concatenate([target, 1 - target])
    while True:
        model = LogisticRegression(C=1.0, max_iter=1000).fit(rows[:, used], labels, sample_weight=mass)
        weights[:] = 0
        weights[used] = model.coef_[0]
        negative = np.flatnonzero(weights[:positive] < 0)
        if not len(negative):
            return weights, float(model.intercept_[0])
        used[negative] = False
