"""Thresholds that keep as many boxes as there are right ones to be expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from composition.errors import UserError
from composition.filtering.labels import Floats, Labelled, above, check_exponent, probabilities
from composition.filtering.thresholds import Rule, Thresholds
from composition.statistics import BINS, Statistics


@dataclass(frozen=True)
class ExpectedCount(Rule):
    """Keeps as many boxes of a class as are right by the sum of their probabilities.

    With probabilities p_i the expected number of right boxes is Σ p_i; the
    threshold is the edge of a bin of `Statistics.scores` from which on the
    number of boxes comes closest to it. Where there are labels, they say what
    a score is worth (`composition.filtering.labels.probabilities`), else
    `composition.filtering.labels.chances` of the scores are the p_i. As many wrong boxes are kept, by
    expectation, as right ones are not.

    Attributes:
        ignored: Boxes that are kept or ignored, as a multiple, at least 1, of the expected number.
        minimum: Fewer expected right boxes than this, at least 1, decide nothing.
        exponent: Turns scores into chances where labels do not, see
            `composition.filtering.labels.chances`; 1: they are chances.
    """

    ignored: float = 2.0
    minimum: float = 1.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not (1 <= self.ignored < np.inf and self.minimum >= 1):
            raise UserError(
                f"expected_count: ignored {self.ignored} and minimum {self.minimum} must be at least 1",
                "Use for example 2 and 1.",
            )
        check_exponent(self.exponent, "expected_count")

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        expected = expected_boxes(statistics, labelled, self.exponent)
        enough = expected >= self.minimum
        boxes = above(statistics.scores.astype(np.float64))
        keep, ignore = (
            np.where(enough, _closest(boxes, expected * factor), np.nan) for factor in (1, self.ignored)
        )
        reason = [
            "expected_count" if decided else f"expected_count has {count:.1f} right boxes"
            for decided, count in zip(enough, expected, strict=True)
        ]
        return Thresholds(keep, ignore, tuple(reason))


def expected_boxes(statistics: Statistics, labelled: Labelled | None = None, exponent: float = 1.0) -> Floats:
    """(C,) expected number of right boxes of every class, kept or not."""
    if labelled is None and exponent == 1:
        return statistics.expected
    return np.asarray(statistics.scores @ probabilities(labelled, exponent))


def _closest(boxes: Floats, count: Floats) -> Floats:
    """(C,) the threshold from which on the number of boxes is closest to ``count``, the higher one of two."""
    distance = np.abs(boxes - count[:, None])
    return np.asarray((BINS - distance[:, ::-1].argmin(axis=1)) / BINS)
