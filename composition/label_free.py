"""Learning without labels what every teacher's score and silence are worth (ours).

Each teacher looks twice at the same pictures, see `composition.second_look`. Of
every score s is measured the mean share m(s) of COCO's ten IoU thresholds at
which the second look confirms the box, by isotonic regression, as labels would
measure it (`composition.calibration`). On COCO photographs and six detectors the
true share is about m(s)³ (docs/method.md), so that is the calibrated score.

From it follow, relative to the strongest teacher of the classes that two see
together, the strength g_t in [0, 1] (expected number of right boxes), and with it
the weights of the fused score that a regression on labels would have learned:

    best 0.55, agreement_t 0.28 g_t, presence_t 0.7 g_t, silence_t -1.2 g_t^0.8,

fitted by eye to the regressions of six groups of teachers on COCO training images.
``trust_t`` is - ½ log of the mean squared (1 - IoU) between the two looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from composition.calibration import rising_curve
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.expert import Expert, Expertise
from composition.matching import Matches, Objects, match

POWER = 3
BEST = 0.55
SHARPNESS = 0.7
MINIMUM_DETECTIONS = 20


def calibrate_label_free(
    tables: Sequence[Detections],
    second: Sequence[Detections],
    coverage: NDArray[np.bool_],
    iou: float = 0.6,
    *,
    seen: Sequence[Detections] | None = None,
) -> Expert:
    """Fits an `Expert` fuser on unlabeled images.

    Args:
        tables: One per teacher, in the union classes, without enlarged parts.
        second: The same on the second look at the same images.
        coverage: (C, T) bool, who can see which class.
        iou: See `Expert.iou`.
        seen: As ``tables``, of all looks that are fused; None: the same. A border cannot confirm what
            enlarged parts alone show, so scores are calibrated without them; strengths and bias are
            those of all looks.

    Raises:
        UserError: All teachers together found fewer than `MINIMUM_DETECTIONS`.
    """
    if sum(map(len, tables)) < MINIMUM_DETECTIONS:
        raise UserError(
            f"{sum(map(len, tables))} detections are too few to calibrate on",
            "Give more images, or images on which the teachers find something.",
        )
    looks = [match(first, _as_truth(again)) for first, again in zip(tables, second, strict=True)]
    curves = [_curve(first, found) for first, found in zip(tables, looks, strict=True)]
    seen = seen or tables
    strength = _strengths(seen, curves, coverage)
    trust = np.array([_trust(*one) for one in zip(tables, looks, curves, strict=True)])
    trust = trust - trust.max()
    expertise = tuple(
        replace(
            curve,
            trust=float(trust[t]),
            agreement=float(0.28 * strength[t]),
            presence=float(0.7 * strength[t]),
            silence=float(-1.2 * strength[t] ** 0.8),
        )
        for t, curve in enumerate(curves)
    )
    sees = tuple(tuple(map(bool, row)) for row in coverage)
    fuser = Expert(iou, expertise, sees, best=BEST, sharpness=SHARPNESS)
    return replace(fuser, bias=_bias(fuser, seen, strength))


def _as_truth(second: Detections) -> Objects:
    return Objects(
        second.image_id,
        second.class_id.astype(np.int64),
        second.boxes.astype(np.float64),
        np.zeros(len(second), np.bool_),
    )


def _curve(first: Detections, found: Matches) -> Expertise:
    if not len(first):
        return Expertise()
    scores, shares = rising_curve(first.score, found.quality)
    return Expertise(scores, tuple(share**POWER for share in shares))


def _trust(first: Detections, found: Matches, curve: Expertise) -> float:
    weight = curve.calibrated(first.score) * (found.quality > 0)
    if not weight.sum():
        return 0.0
    spread = float(np.average((1 - found.iou) ** 2, weights=weight))
    return -0.5 * math.log(max(spread, 1e-4))


def _expected(found: Detections, curve: Expertise, classes: NDArray[np.bool_]) -> float:
    """Right boxes that a teacher expects to have, in some classes."""
    return float(curve.calibrated(found.score)[classes[found.class_id]].sum())


def _strengths(
    tables: Sequence[Detections], curves: Sequence[Expertise], coverage: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(T,) in (0, 1]: of what the strongest other finds in the classes seen by both, the teacher's part."""
    strength = np.ones(len(tables))
    for one in range(len(tables)):
        for other in range(len(tables)):
            both = coverage[:, one] & coverage[:, other]
            rival = _expected(tables[other], curves[other], both)
            if rival > 0:
                strength[one] = min(strength[one], _expected(tables[one], curves[one], both) / rival)
    return np.maximum(strength, 1e-3)


def _bias(fuser: Expert, tables: Sequence[Detections], strength: NDArray[np.float64]) -> float:
    """The one with which fused scores sum to what the strongest expert of every class expects to be right."""
    assert fuser.coverage is not None
    assert fuser.expertise is not None
    strongest = np.where(np.array(fuser.coverage), strength, -1).argmax(axis=1)
    target = sum(
        _expected(found, curve, strongest == t)
        for t, (found, curve) in enumerate(zip(tables, fuser.expertise, strict=True))
    )
    pooled, clusters = fuser.clusters(tables)
    odds = fuser.odds(pooled, clusters)
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(odds + middle)))).sum() < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
