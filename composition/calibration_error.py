"""How far scores are from what they claim: reliability curves and detection calibration errors.

All errors here are one formula, the expected calibration error over equal bins
of the score,

    ECE = Σ_j n_j / n · |mean target in bin j - mean score in bin j|,

and differ in what the score is held against (the *target*) and in whether the
bins are filled by class:

* **D-ECE** (Küppers, Kronenberger, Shantia and Haselhoff 2020, "Multivariate
  Confidence Calibration for Object Detection", on the score alone, 20 bins):
  the target is 1 where the box is right and 0 where not; its mean is the
  precision of the bin. All classes together.
* **LaECE** (Oksuz, Joy and Dokania 2023, "Towards Building Self-Aware Object
  Detectors via Reliable Uncertainty Quantification and Calibration", 25 bins):
  the target is the IoU with the object where the box is right and 0 where not;
  its mean is the precision times the mean IoU of the right boxes of the bin.
  Mean over the classes.
* **Quality error** (ours): the target is `Matches.quality`, the share of the
  ten COCO thresholds at which a box is right. It is what
  `composition.calibration` fits, so it is the one that shows whether
  calibration did what it was made for. All classes together, 20 bins.

A box is right if it takes an object of its class at IoU >= 0.5 (the threshold
is a parameter of both papers; 0.5 is our choice for both, so that one matching
serves all).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.matching import Matches, Objects, match

Floats = NDArray[np.float64]
DECE_BINS = 20
LAECE_BINS = 25
RIGHT_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability curve as sums over B equal bins of [0, 1], or one a class.

    Sums of parts add up to the sums of the whole, so a curve is made shard by shard.

    Attributes:
        count: (..., B) float64, rows.
        score: (..., B) float64, sum of their scores.
        target: (..., B) float64, sum of their targets.
    """

    count: Floats
    score: Floats
    target: Floats

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.count + other.count, self.score + other.score, self.target + other.target)

    @property
    def mean_score(self) -> Floats:
        """(..., B), NaN where a bin is empty."""
        return _mean(self.score, self.count)

    @property
    def mean_target(self) -> Floats:
        """(..., B), NaN where a bin is empty."""
        return _mean(self.target, self.count)

    @property
    def error(self) -> Floats:
        """(...) expected calibration error; NaN without rows."""
        return np.asarray(_mean(np.abs(self.target - self.score).sum(axis=-1), self.count.sum(axis=-1)))

    def to_dict(self) -> dict[str, Any]:
        """JSON form of one curve: the bins that are not empty."""
        used = self.count > 0
        return {
            "count": self.count[used].tolist(),
            "score": np.round(self.mean_score[used], 4).tolist(),
            "target": np.round(self.mean_target[used], 4).tolist(),
        }


def _mean(total: Floats, count: Floats) -> Floats:
    mean: Floats = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return mean


def reliability(
    score: NDArray[Any],
    target: NDArray[Any],
    bins: int = DECE_BINS,
    *,
    class_id: NDArray[Any] | None = None,
    num_classes: int = 1,
    weight: Floats | None = None,
) -> Reliability:
    """Sums scores and targets by bin of the score.

    Bin j holds the scores in (j / bins, (j + 1) / bins]; a score of 0 is in the first.

    Args:
        score: (N,) in [0, 1].
        target: (N,) in [0, 1].
        bins: B.
        class_id: (N,) integers below ``num_classes`` for a curve a class;
            None = one curve.
        num_classes: C; only with ``class_id``.
        weight: (N,) not negative, how often a row counts; None = once.

    Returns:
        Arrays of shape (B,), or (C, B) with ``class_id``.
    """
    value = np.asarray(score, np.float64)
    place = np.clip(np.ceil(value * bins).astype(np.int64) - 1, 0, bins - 1)
    shape: tuple[int, ...] = (bins,)
    if class_id is not None:
        place = place + np.asarray(class_id, np.int64) * bins
        shape = (num_classes, bins)
    times = np.ones(len(value)) if weight is None else weight

    def total(column: Floats) -> Floats:
        return np.bincount(place, column * times, int(np.prod(shape))).astype(np.float64).reshape(shape)

    return Reliability(total(np.ones(len(value))), total(value), total(np.asarray(target, np.float64)))


@dataclass(frozen=True, slots=True)
class CalibrationErrors:
    """The calibration errors of one table of detections; NaN where there is nothing to measure.

    Attributes:
        dece: D-ECE.
        laece: LaECE, over the classes that have both boxes and labels.
        quality_error: Against the share of IoU thresholds.
        precision_curve: The reliability curve behind ``dece``.
        quality_curve: The one behind ``quality_error``.
        boxes: Rows measured; those in crowd regions are left out.
        classes: Classes that ``laece`` is the mean of.
    """

    dece: float
    laece: float
    quality_error: float
    precision_curve: Reliability
    quality_curve: Reliability
    boxes: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON form; errors and curves in [0, 1], None for NaN."""
        return {
            "D-ECE": _number(self.dece),
            "LaECE": _number(self.laece),
            "quality_error": _number(self.quality_error),
            "boxes": self.boxes,
            "classes": self.classes,
            "precision_curve": self.precision_curve.to_dict(),
            "quality_curve": self.quality_curve.to_dict(),
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def both_matches(detections: Detections, truth: Objects) -> tuple[Matches, Matches]:
    """Matches at all of COCO's thresholds, and at 0.5 alone (what takes an object at 0.9 may not at 0.5)."""
    return match(detections, truth), match(detections, truth, np.array([RIGHT_IOU]))


def calibration_errors(
    detections: Detections,
    truth: Objects,
    score: NDArray[Any] | None = None,
    *,
    matches: tuple[Matches, Matches] | None = None,
    weight: Floats | None = None,
) -> CalibrationErrors:
    """Measures how well scores are calibrated on labelled images.

    Args:
        detections: N rows in the union classes. The caller leaves out low
            scores, and does it by the same score before and after calibration:
            the measures weigh every row alike, and thousands of boxes at a
            score near 0 would hide all others.
        truth: The labels of the same images.
        score: (N,) scores to measure in place of the rows' own, such as
            calibrated ones. What is right is decided in the order of the rows'
            own scores, whatever they are calibrated to.
        matches: What `both_matches` gives for these rows, where it is known already.
        weight: (N,) how often each row counts (a bootstrap); None = once.

    Returns:
        The errors.
    """
    found, half = both_matches(detections, truth) if matches is None else matches
    rows = found.counted
    value = np.asarray(detections.score if score is None else score, np.float64)[rows]
    class_id = detections.class_id[rows]
    right = half.quality[rows] > 0
    counts = None if weight is None else weight[rows]
    precision = reliability(value, right, DECE_BINS, weight=counts)
    quality = reliability(value, found.quality[rows], DECE_BINS, weight=counts)
    labelled = np.unique(truth.class_id[~truth.crowd])
    covered = np.isin(class_id, labelled)
    by_class = reliability(
        value[covered],
        (right * found.iou[rows])[covered],
        LAECE_BINS,
        class_id=np.searchsorted(labelled, class_id[covered]),
        num_classes=len(labelled),
        weight=None if counts is None else counts[covered],
    ).error
    measured = ~np.isnan(by_class)
    return CalibrationErrors(
        dece=float(precision.error),
        laece=float(by_class[measured].mean()) if measured.any() else float("nan"),
        quality_error=float(quality.error),
        precision_curve=precision,
        quality_curve=quality,
        boxes=int(rows.sum()),
        classes=int(measured.sum()),
    )
