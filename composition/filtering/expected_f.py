"""Thresholds with the best F-measure to be expected on the pool itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from composition.errors import UserError
from composition.filtering.f_beta import check_betas
from composition.filtering.labels import Labelled, best_f_beta, check_exponent, probabilities
from composition.filtering.thresholds import Rule, Thresholds, undecided
from composition.statistics import Statistics


@dataclass(frozen=True)
class ExpectedF(Rule):
    """The thresholds of the highest F_β that the scores of all fused boxes let expect.

    In `FBeta` the labelled boxes of a class are counted, and they are few. Here
    labels only say, for all classes together, what a score is worth
    (`composition.filtering.labels.probabilities`); the counts of a class are
    expected ones, over every box of the pool: TP(τ) = Σ p_i over the scores
    from τ on, TP + FP = their number, n = Σ p_i over all. (Expected counts in
    the F-measure: Ye, Chai, Lee and Chieu, 2012; shrinkage as in `FBeta`.)
    Objects that no teacher finds do not count in n.

    Attributes:
        beta: Of the keep threshold; above 1 recall weighs more, below 1 precision.
        ignore_beta: Of the ignore threshold, at least ``beta``.
        shrinkage: Right boxes' worth of all classes added to the class's own, not negative.
        minimum: Fewer expected right boxes in all, at least 1, decide nothing.
        exponent: Turns scores into chances where labels do not, see
            `composition.filtering.labels.chances`; 1: they are chances.
    """

    beta: float = 1.0
    ignore_beta: float = 2.0
    shrinkage: float = 3.0
    minimum: float = 20.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_betas(self.beta, self.ignore_beta, "expected_f")
        if not (0 <= self.shrinkage < np.inf and self.minimum >= 1):
            raise UserError(
                f"expected_f: shrinkage {self.shrinkage} must not be negative, minimum {self.minimum} "
                "at least 1",
                "Use for example 3 and 20.",
            )
        check_exponent(self.exponent, "expected_f")

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        boxes = statistics.scores.astype(np.float64)
        right = boxes * probabilities(labelled, self.exponent)
        total = right.sum()
        if total < self.minimum:
            return undecided([f"expected_f has {total:.1f} right boxes"] * len(boxes))
        share = self.shrinkage / total
        boxes, right = (one + share * one.sum(axis=0) for one in (boxes, right))
        known = boxes.any(axis=1)
        keep, ignore = (
            best_f_beta(right, boxes, right.sum(axis=1), beta) for beta in (self.beta, self.ignore_beta)
        )
        return Thresholds(
            np.where(known, keep, np.nan),
            np.where(known, np.minimum(keep, ignore), np.nan),
            tuple("expected_f" if one else "expected_f has no boxes" for one in known),
        )
