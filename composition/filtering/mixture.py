"""Thresholds from two modes of the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from composition.filtering.labels import LOGITS, Floats, Labelled, check_exponent, probabilities
from composition.filtering.thresholds import Rule, Thresholds
from composition.statistics import BINS, Statistics

SEPARATION = 2.0
"""Ashman's D from which on two Gaussians are two modes (Ashman, Bird and Zepf, 1994)."""
ITERATIONS = 200
_NARROWEST = 0.05  # of a component's variance; a single full bin must not draw it to 0


@dataclass(frozen=True)
class Mixture(Rule):
    """Splits the fused scores of a class where its two modes meet.

    Two Gaussians are fitted to the logits of the scores (expectation
    maximisation, Dempster, Laird and Rubin, 1977, on the histogram's bins); the
    upper one is taken for the right boxes. A box is kept from the score on at
    which it belongs to the upper one with probability ``keep``, ignored from
    ``ignore`` on. A class is undecided if it has few boxes, if one Gaussian
    explains them as well (Bayesian information criterion, Schwarz, 1978), if the
    two are not separate modes (`SEPARATION`), or if the boxes that it would keep
    are right with a mean probability under ``keep`` (ours): modes may as well
    be two kinds of noise.

    Attributes:
        keep: Posterior probability, in (0, 1).
        ignore: Posterior probability, in (0, keep].
        minimum: Fewer boxes decide nothing.
        exponent: Turns scores into chances where labels do not, see
            `composition.filtering.labels.chances`; 1: they are chances.
    """

    keep: float = 0.5
    ignore: float = 0.1
    minimum: int = 50
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.ignore <= self.keep < 1:
            raise UserError(
                f"mixture: 0 < ignore <= keep < 1 does not hold for {self.ignore} and {self.keep}",
                "Use for example 0.1 and 0.5.",
            )
        if self.minimum < 2:
            raise UserError(f"mixture: a minimum of {self.minimum} boxes is too few", "Use 2 or more.")
        check_exponent(self.exponent, "mixture")

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        chance = probabilities(labelled, self.exponent)
        rows = [self._class(histogram, chance) for histogram in statistics.scores]
        return Thresholds(
            np.array([row[0] for row in rows], np.float64),
            np.array([row[1] for row in rows], np.float64),
            tuple(row[2] for row in rows),
        )

    def _class(self, histogram: NDArray[np.int64], chance: Floats) -> tuple[float, float, str]:
        total = int(histogram.sum())
        if total < self.minimum:
            return np.nan, np.nan, f"mixture has {total} boxes"
        fitted = fit(histogram.astype(np.float64))
        if fitted is None or fitted.separation < SEPARATION:
            return np.nan, np.nan, "mixture finds one mode"
        upper = fitted.posterior()
        keep, ignore = _from(upper, self.keep), _from(upper, self.ignore)
        kept = histogram[keep:]
        if kept @ chance[keep:] < self.keep * kept.sum():
            return np.nan, np.nan, "mixture finds modes of noise"
        return keep / BINS, ignore / BINS, "mixture"


def _from(posterior: Floats, share: float) -> int:
    """The lowest edge from which on every bin has at least a posterior; `BINS` if none."""
    below = np.flatnonzero(posterior < share)
    return int(below[-1]) + 1 if len(below) else 0


@dataclass(frozen=True, slots=True)
class TwoGaussians:
    """A fitted mixture; the upper component is the second.

    Attributes:
        mean: Of the two, rising.
        variance: Of the two.
        share: Of the two, sums to 1.
    """

    mean: tuple[float, float]
    variance: tuple[float, float]
    share: tuple[float, float]

    @property
    def separation(self) -> float:
        """Ashman's D: distance of the means over the root mean square of the deviations."""
        return float((self.mean[1] - self.mean[0]) / np.sqrt(np.mean(self.variance)))

    def posterior(self) -> Floats:
        """(`BINS`,) probability of the upper component, above its mean never falling.

        With unequal variances the wider component wins again far out; a higher
        score is never less of a right box, so the posterior is held.
        """
        first, second = _logs(LOGITS, np.array(self.mean), np.array(self.variance), np.array(self.share))
        upper = 1 / (1 + np.exp(np.clip(first - second, -500, 500)))
        mode = int(np.searchsorted(LOGITS, self.mean[1]))
        upper[mode:] = np.maximum.accumulate(upper[mode:])
        return np.asarray(upper)


def fit(weight: Floats) -> TwoGaussians | None:
    """Two Gaussians on the logits of a histogram of `BINS` scores; None if one does as well.

    Args:
        weight: (`BINS`,) counts.
    """
    used = np.flatnonzero(weight)
    weight, logits = weight[used], LOGITS[used]
    total = weight.sum()
    middle = float(weight @ logits / total)
    spread = float(weight @ (logits - middle) ** 2 / total) + _NARROWEST
    one = weight @ _logs(logits, np.array([middle]), np.array([spread]), np.ones(1))[0]
    mean: Floats = middle + np.sqrt(spread) * np.array([-1.0, 1.0])
    variance, share = np.full(2, spread), np.full(2, 0.5)
    likelihood = -np.inf
    for _ in range(ITERATIONS):
        logs = _logs(logits, mean, variance, share)
        both = np.logaddexp(*logs)
        previous, likelihood = likelihood, float(weight @ both)
        if likelihood - previous < 1e-8 * total:
            break
        duty = np.exp(logs - both) * weight
        mass = np.maximum(duty.sum(axis=1), 1e-9)
        share = mass / mass.sum()
        mean = duty @ logits / mass
        variance = (duty * (logits - mean[:, None]) ** 2).sum(axis=1) / mass + _NARROWEST
    # three more numbers are to be paid for
    if likelihood - one <= 1.5 * np.log(total):
        return None
    order = np.argsort(mean)
    return TwoGaussians(*(_pair(values[order]) for values in (mean, variance, share)))


def _pair(values: Floats) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _logs(logits: Floats, mean: Floats, variance: Floats, share: Floats) -> Floats:
    """(K, M) log of share times density of K components at M logits."""
    return np.asarray(
        np.log(share)[:, None]
        - 0.5 * np.log(2 * np.pi * variance)[:, None]
        - 0.5 * (logits - mean[:, None]) ** 2 / variance[:, None]
    )
