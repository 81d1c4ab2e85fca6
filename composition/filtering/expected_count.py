"""Thresholds that keep as many boxes as there are right ones to be expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from composition.filtering.thresholds import Labelled, Rule, Thresholds
from composition.statistics import BINS, Statistics


@dataclass(frozen=True)
class ExpectedCount(Rule):
    """Keeps as many boxes of a class as the sum of its fused scores says are right.

    With calibrated scores p_i the expected number of right boxes is Σ p_i; the
    threshold is the edge of a bin of `Statistics.scores` above which the number
    of boxes comes closest to it. Neither labels nor two modes are needed, but
    calibrated scores. Kept boxes then expect as many wrong ones as there are
    right ones among those below.

    Attributes:
        ignored: Boxes that are kept or ignored, as a multiple, at least 1, of the expected number.
        minimum: Fewer expected right boxes than this, at least 1, decide nothing.
    """

    ignored: float = 2.0
    minimum: float = 5.0

    def __post_init__(self) -> None:
        if not (self.ignored >= 1 and self.minimum >= 1):
            raise UserError(
                f"expected count: ignored {self.ignored} and minimum {self.minimum} must be at least 1",
                "Use numbers from 1 on.",
            )

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        above = np.cumsum(statistics.scores[:, ::-1], axis=1)[:, ::-1]
        above = np.concatenate([above, np.zeros((len(above), 1), np.int64)], axis=1)
        expected = statistics.expected
        enough = expected >= self.minimum
        keep, ignore = (
            np.where(enough, _closest(above, expected * factor) / BINS, np.nan)
            for factor in (1, self.ignored)
        )
        reason = [
            "expected_count" if decided else f"expected_count has {count:.1f} right boxes"
            for decided, count in zip(enough, expected, strict=True)
        ]
        return Thresholds(keep, ignore, tuple(reason))


def _closest(above: NDArray[np.int64], count: NDArray[np.float64]) -> NDArray[np.intp]:
    """(C,) the edge above which the number of boxes is closest to ``count``, the higher one of two."""
    distance = np.abs(above - count[:, None])
    return np.asarray(distance.shape[1] - 1 - distance[:, ::-1].argmin(axis=1))
