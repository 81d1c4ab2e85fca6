"""Thresholds with the best F-measure on a few labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from composition.filtering.thresholds import Floats, Labelled, Rule, Thresholds
from composition.matching import IOUS, match
from composition.statistics import BINS, Statistics


@dataclass(frozen=True)
class FBeta(Rule):
    """The thresholds of the highest F_β at IoU 0.5 on labelled images, shrunk towards the pooled one.

    With TP_c(τ), FP_c(τ) boxes of class c that score at least τ and n_c objects,

        F_β(τ) = (1 + β²) TP / (TP + FP + β² n)     (van Rijsbergen, 1979)

    is maximised with ``shrinkage`` objects' worth of all classes added to the
    class's own counts (ours): TP = TP_c + m TP_all / n_all, FP and n likewise,
    m = ``shrinkage``. A class without labelled objects so gets the threshold of
    all classes pooled, one with many its own.

    Attributes:
        beta: Of the keep threshold; above 1 recall weighs more, below 1 precision.
        ignore_beta: Of the ignore threshold, at least ``beta``.
        shrinkage: m, above 0.
        minimum: Fewer labelled objects in all decide nothing.
    """

    beta: float = 1.0
    ignore_beta: float = 2.0
    shrinkage: float = 20.0
    minimum: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.beta <= self.ignore_beta:
            raise UserError(
                f"f_beta: 0 < beta <= ignore_beta does not hold for {self.beta} and {self.ignore_beta}",
                "Use for example 1 and 2.",
            )
        if not (self.shrinkage > 0 and self.minimum >= 1):
            raise UserError(
                f"f_beta: shrinkage {self.shrinkage} must be above 0, minimum {self.minimum} at least 1",
                "Use for example 20 and 20.",
            )

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        classes = statistics.num_classes
        if labelled is None:
            return _undecided(["f_beta has no labels"] * classes)
        right, wrong, objects = counts(labelled, classes)
        total = objects.sum()
        if total < self.minimum:
            return _undecided([f"f_beta has {total} labels"] * classes)
        share = self.shrinkage / total
        right, wrong, objects = (one + share * one.sum(axis=0) for one in (right, wrong, objects))
        keep = _best(right, wrong, objects, self.beta) / BINS
        ignore = np.minimum(_best(right, wrong, objects, self.ignore_beta) / BINS, keep)
        covered = labelled.covered
        keep[~covered], ignore[~covered] = np.nan, np.nan
        return Thresholds(
            keep, ignore, tuple("f_beta" if known else "f_beta has no labels of it" for known in covered)
        )


def _undecided(reason: list[str]) -> Thresholds:
    return Thresholds(np.full(len(reason), np.nan), np.full(len(reason), np.nan), tuple(reason))


def counts(labelled: Labelled, classes: int) -> tuple[Floats, Floats, Floats]:
    """Right and wrong boxes at every threshold, and objects.

    Returns:
        (C, `BINS` + 1) boxes that score at least k / `BINS` and hit an object
        at IoU 0.5 (each object once, best score first), as many that hit none,
        and (C,) objects. Crowd regions count as neither; classes that the
        labels do not cover have none.
    """
    truth, covered = labelled.truth, labelled.covered
    rows = labelled.detections[covered[labelled.detections.class_id]]
    found = match(rows, truth, IOUS[:1])
    hit = found.quality > 0
    place = np.minimum((rows.score * np.float32(BINS)).astype(np.int64), BINS - 1)
    sums = []
    for chosen in (hit, found.counted & ~hit):
        cells = rows.class_id[chosen].astype(np.int64) * (BINS + 1) + place[chosen]
        histogram = np.bincount(cells, minlength=classes * (BINS + 1)).reshape(classes, BINS + 1)
        sums.append(np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1].astype(np.float64))
    objects = np.bincount(truth.class_id[~truth.crowd], minlength=classes) * covered
    return sums[0], sums[1], objects.astype(np.float64)


def _best(right: Floats, wrong: Floats, objects: Floats, beta: float) -> NDArray[np.intp]:
    """(C,) the threshold of the highest F_β, the higher one of two."""
    measure = (1 + beta**2) * right / np.maximum(right + wrong + beta**2 * objects[:, None], 1e-12)
    return np.asarray(measure.shape[1] - 1 - measure[:, ::-1].argmax(axis=1))
