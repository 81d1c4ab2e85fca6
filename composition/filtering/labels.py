"""What a few labelled images say of fused scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError
from composition.matching import IOUS, Objects, match
from composition.statistics import BINS

Floats = NDArray[np.float64]
MINIMUM_OBJECTS = 20
CENTRES: Floats = (np.arange(BINS) + 0.5) / BINS
"""(`BINS`,) middle score of every bin."""
SHARE_EXPONENT = 1.7
"""For scores that foretell the share of COCO's ten IoU thresholds at which a box is right, as those of the
calibrated expert do. It lies between the likeliest exponents of two kinds of pictures (`benchmarks.chance`):
2.3 for groups of teachers on COCO, 1.2 for two teachers of blood cells."""
LOGITS: Floats = np.log(CENTRES / (1 - CENTRES))


@dataclass(frozen=True, slots=True)
class Labelled:
    """A few labelled images, for the rules that learn from labels.

    Attributes:
        detections: The fused boxes on them, fused as those that the thresholds are for.
        truth: Their labels, in the union classes.
        covered: (C,) bool, the classes that the labels cover; of the others
            nothing is known to be wrong.
    """

    detections: Detections
    truth: Objects
    covered: NDArray[np.bool_]


def histograms(labelled: Labelled) -> tuple[Floats, Floats, Floats]:
    """Right boxes, wrong boxes and objects.

    Returns:
        (C, `BINS`) boxes that hit an object at IoU 0.5 (each object once, best
        score first), as many that hit none, and (C,) objects. Crowd regions
        count as neither; classes that the labels do not cover have none.
    """
    truth, covered = labelled.truth, labelled.covered
    classes = len(covered)
    rows = labelled.detections[covered[labelled.detections.class_id]]
    found = match(rows, truth, IOUS[:1])
    hit = found.quality > 0
    place = np.minimum((rows.score * np.float32(BINS)).astype(np.int64), BINS - 1)
    cells = rows.class_id.astype(np.int64) * BINS + place
    right, wrong = (
        np.bincount(cells[chosen], minlength=classes * BINS).reshape(classes, BINS).astype(np.float64)
        for chosen in (hit, found.counted & ~hit)
    )
    objects = np.bincount(truth.class_id[~truth.crowd], minlength=classes) * covered
    return right, wrong, objects.astype(np.float64)


def check_exponent(exponent: float, who: str) -> None:
    """Raises UserError unless the exponent of `chances` is above 0 and finite."""
    if not 0 < exponent < np.inf:
        raise UserError(
            f"{who}: exponent {exponent} must be above 0",
            "Use 1 for scores that are probabilities at IoU 0.5.",
        )


def chances(score: Floats, exponent: float) -> Floats:
    """Chance of boxes to be right at IoU 0.5, from their scores alone (ours).

    p = 1 - (1 - q)^k

    rises with q and fixes 0 and 1; see `SHARE_EXPONENT`.

    Args:
        score: (N,) q, in [0, 1].
        exponent: k, above 0; 1: the score is the chance.

    Returns:
        (N,) float64.
    """
    return score if exponent == 1 else np.asarray(1 - (1 - score) ** exponent, np.float64)


def probabilities(labelled: Labelled | None, exponent: float = 1.0) -> Floats:
    """Chance of a fused box to be right at IoU 0.5, by its score.

    A logistic regression of right and wrong on the logit of the score, all
    classes pooled (Platt, 1999): two numbers, so that a few labels suffice.
    Without labels, with fewer than `MINIMUM_OBJECTS` objects, or if higher
    scores come out no better, it is `chances` of the score.

    Args:
        labelled: A few labelled images, if there are any.
        exponent: See `chances`; used without labels only.

    Returns:
        (`BINS`,) float64, rising along the bins.
    """
    alone = chances(CENTRES, exponent)
    if labelled is None:
        return alone
    right, wrong, objects = histograms(labelled)
    hits, misses = right.sum(axis=0), wrong.sum(axis=0)
    if objects.sum() < MINIMUM_OBJECTS or not (hits.any() and misses.any()):
        return alone
    # scikit-learn takes a second to import, and planning a composition does without
    from sklearn.linear_model import LogisticRegression

    used = np.flatnonzero(hits + misses)
    model = LogisticRegression(C=100.0).fit(
        np.tile(LOGITS[used], 2)[:, None],
        np.repeat([1, 0], len(used)),
        sample_weight=np.concatenate([hits[used], misses[used]]),
    )
    if model.coef_[0, 0] <= 0:
        return alone
    return np.asarray(model.predict_proba(LOGITS[:, None])[:, 1], np.float64)


def above(histogram: Floats) -> Floats:
    """(C, `BINS` + 1) sums over the scores from k / `BINS` on; the last is 0."""
    sums = np.zeros((len(histogram), histogram.shape[1] + 1))
    sums[:, :-1] = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    return sums


def best_f_beta(right: Floats, all_boxes: Floats, objects: Floats, beta: float) -> Floats:
    """(C,) threshold of the highest F_β, the higher one of two.

    F_β = (1 + β²) TP / (TP + FP + β² n)     (van Rijsbergen, 1979)

    Args:
        right: (C, `BINS`) TP in every bin.
        all_boxes: (C, `BINS`) TP + FP in every bin.
        objects: (C,) n.
        beta: Above 0; above 1 recall weighs more, below 1 precision.
    """
    total = above(all_boxes) + beta**2 * objects[:, None]
    measure = (1 + beta**2) * above(right) / np.maximum(total, 1e-12)
    return np.asarray((BINS - measure[:, ::-1].argmax(axis=1)) / BINS)
