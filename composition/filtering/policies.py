"""Which detections are kept: small values with one method that compose with ``&``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError


class Policy:
    """Base of all filters; ``a & b`` keeps what both keep."""

    def keep(self, detections: Detections) -> NDArray[np.bool_]:
        """Decides row by row.

        Args:
            detections: N rows, class ids in the union classes.

        Returns:
            (N,) bool, True where the row stays.
        """
        raise NotImplementedError

    def __and__(self, other: Policy) -> Policy:
        return Both(self, other)


@dataclass(frozen=True)
class Both(Policy):
    """Keeps what two policies keep."""

    first: Policy
    second: Policy

    def keep(self, detections: Detections) -> NDArray[np.bool_]:
        """See `Policy.keep`."""
        return self.first.keep(detections) & self.second.keep(detections)


@dataclass(frozen=True)
class ScoreThreshold(Policy):
    """Keeps scores at or above a threshold, of the class or the default one.

    Attributes:
        default: Threshold in [0, 1] of the classes that ``per_class`` leaves out.
        per_class: Class id to its threshold in [0, 1].
    """

    default: float
    per_class: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, value in [("default", self.default), *self.per_class.items()]:
            if not 0 <= value <= 1:
                raise UserError(
                    f"score threshold of class {place}: {value} is not in [0, 1]"
                    if place != "default"
                    else f"score threshold: {value} is not in [0, 1]",
                    "Scores are probabilities; use a number from 0 to 1.",
                )

    def keep(self, detections: Detections) -> NDArray[np.bool_]:
        """See `Policy.keep`."""
        classes = max([int(detections.class_id.max(initial=-1)), *self.per_class]) + 1
        # float32 like the scores: 0.7 must keep a score of float32(0.7)
        thresholds = np.full(classes, self.default, np.float32)
        for class_id, value in self.per_class.items():
            thresholds[class_id] = value
        return np.asarray(detections.score >= thresholds[detections.class_id])


@dataclass(frozen=True)
class MinimumSize(Policy):
    """Keeps boxes of which both sides have at least so many pixels.

    Attributes:
        side: Pixels of the original image, not negative.
    """

    side: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.side) and self.side >= 0):
            raise UserError(f"minimum box size: {self.side} is not a number of pixels", "Use 0 or more.")

    def keep(self, detections: Detections) -> NDArray[np.bool_]:
        """See `Policy.keep`."""
        x1, y1, x2, y2 = detections.boxes.T
        return np.asarray(np.minimum(x2 - x1, y2 - y1) >= np.float32(self.side))


@dataclass(frozen=True)
class Stability(Policy):
    """Keeps boxes that test-time augmentation moves little, and those where it was not measured.

    A box that does not pass still shows what is there, only not where exactly:
    train the class with it, not the box (see `box_weight`).

    Attributes:
        max_spread: Largest `Detections.spread`, a fraction of the box's size, not negative.
    """

    max_spread: float

    def __post_init__(self) -> None:
        if not self.max_spread >= 0:
            raise UserError(
                f"stability: a largest spread of {self.max_spread} is not a fraction of the box size",
                "Use 0 or more, for example 0.1.",
            )

    def keep(self, detections: Detections) -> NDArray[np.bool_]:
        """See `Policy.keep`."""
        return box_weight(detections.spread, self.max_spread) > 0


def box_weight(spread: NDArray[np.float32], max_spread: float) -> NDArray[np.float32]:
    """What every row may weigh in the loss of the box, beside its weight in the loss of the class.

    Args:
        spread: (N,) `Detections.spread`, NaN where not measured.
        max_spread: See `Stability.max_spread`.

    Returns:
        (N,) float32: 1 up to ``max_spread`` and where not measured, 0 above.
    """
    return np.where(spread > np.float32(max_spread), 0, 1).astype(np.float32)


def apply(policy: Policy, detections: Detections) -> Detections:
    """The rows that a policy keeps, in their order."""
    return detections[policy.keep(detections)]
