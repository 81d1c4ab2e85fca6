"""Thresholds with the best F-measure on a few labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from composition.errors import UserError
from composition.filtering.labels import Labelled, best_f_beta, histograms
from composition.filtering.thresholds import Rule, Thresholds, undecided
from composition.statistics import Statistics


def check_betas(beta: float, ignore_beta: float, who: str) -> None:
    """Raises UserError unless 0 < beta <= ignore_beta."""
    if not 0 < beta <= ignore_beta < np.inf:
        raise UserError(
            f"{who}: 0 < beta <= ignore_beta does not hold for {beta} and {ignore_beta}",
            "Use for example 1 and 2.",
        )


@dataclass(frozen=True)
class FBeta(Rule):
    """The thresholds of the highest F_β at IoU 0.5 on labelled images, shrunk towards the pooled one.

    See `composition.filtering.labels.best_f_beta`. It is maximised with
    ``shrinkage`` objects' worth of all classes added to the class's own counts
    (ours): TP = TP_c + m TP_all / n_all, FP and n likewise, m = ``shrinkage``.
    So a class without labelled objects gets the threshold of all classes
    pooled, one with many its own.

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
        check_betas(self.beta, self.ignore_beta, "f_beta")
        if not (0 < self.shrinkage < np.inf and self.minimum >= 1):
            raise UserError(
                f"f_beta: shrinkage {self.shrinkage} must be above 0, minimum {self.minimum} at least 1",
                "Use for example 20 and 20.",
            )

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        if labelled is None:
            return undecided(["f_beta has no labels"] * statistics.num_classes)
        right, wrong, objects = histograms(labelled)
        total = objects.sum()
        if total < self.minimum:
            return undecided([f"f_beta has {total:.0f} labels"] * statistics.num_classes)
        share = self.shrinkage / total
        right, wrong, objects = (one + share * one.sum(axis=0) for one in (right, wrong, objects))
        keep = best_f_beta(right, right + wrong, objects, self.beta)
        ignore = np.minimum(best_f_beta(right, right + wrong, objects, self.ignore_beta), keep)
        known = labelled.covered
        return Thresholds(
            np.where(known, keep, np.nan),
            np.where(known, ignore, np.nan),
            tuple("f_beta" if one else "f_beta has no labels of it" for one in known),
        )
