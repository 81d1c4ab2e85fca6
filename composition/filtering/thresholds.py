"""Two thresholds a class, where they come from, and what they make of fused boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from composition.filtering.labels import Floats, Labelled
from composition.fusion.base import Fused
from composition.pseudo_labels import IGNORE, POSITIVE
from composition.statistics import Statistics

DROP: Final = -1
"""Kind of a box that is background."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Per class: positive from ``keep`` on, ignored from ``ignore`` on, background below.

    Attributes:
        keep: (C,) float64 in [0, 1], NaN where no rule could decide.
        ignore: (C,) float64, 0 <= ignore <= keep, NaN in the same places.
        reason: (C,) the rule that decided, after a colon why others before it
            could not; where none could, only why.
    """

    keep: Floats
    ignore: Floats
    reason: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.keep.shape == self.ignore.shape == (len(self.reason),):
            raise ValueError("thresholds: keep, ignore and reason differ in length")
        keep, ignore = self.keep[self.decided], self.ignore[self.decided]
        if np.isnan(ignore).any() or not ((ignore >= 0) & (ignore <= keep) & (keep <= 1)).all():
            raise ValueError("thresholds: 0 <= ignore <= keep <= 1 does not hold")

    @property
    def decided(self) -> NDArray[np.bool_]:
        """(C,) bool, the classes that have thresholds."""
        return ~np.isnan(self.keep)

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON form: a row for every class, None for what is not decided."""
        return [
            {
                "keep": None if np.isnan(keep) else float(keep),
                "ignore": None if np.isnan(keep) else float(ignore),
                "reason": reason,
            }
            for keep, ignore, reason in zip(self.keep, self.ignore, self.reason, strict=True)
        ]


def undecided(reason: Sequence[str]) -> Thresholds:
    """No thresholds for any class, and why."""
    nothing = np.full(len(reason), np.nan)
    return Thresholds(nothing, nothing, tuple(reason))


def from_dict(rows: list[Mapping[str, Any]]) -> Thresholds:
    """The inverse of `Thresholds.to_dict`."""
    columns = [[np.nan if row[key] is None else row[key] for row in rows] for key in ("keep", "ignore")]
    return Thresholds(
        np.array(columns[0], np.float64),
        np.array(columns[1], np.float64),
        tuple(row["reason"] for row in rows),
    )


class Rule:
    """Base of all rules that choose thresholds; ``a | b`` asks b for the classes that a cannot decide."""

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """Chooses thresholds for every class that the rule can decide.

        Args:
            statistics: Of all fused boxes of the pool.
            labelled: A few labelled images, if there are any.

        Returns:
            Thresholds of C classes, NaN with the reason where undecided.
        """
        raise NotImplementedError

    def __or__(self, other: Rule) -> FirstThat:
        return FirstThat((self, other))


@dataclass(frozen=True)
class FirstThat(Rule):
    """Takes for every class the first rule that can decide it.

    Attributes:
        rules: At least one, in order; end with `Fixed` to decide everything.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise UserError(
                "there is no threshold rule to ask", "Give at least one, for example a fixed one."
            )

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`."""
        return first_that([rule.thresholds(statistics, labelled) for rule in self.rules])


def first_that(answers: list[Thresholds]) -> Thresholds:
    """Per class the first of some answers that is decided, with the reasons of those before it."""
    keep, ignore = answers[0].keep.copy(), answers[0].ignore.copy()
    reason = list(answers[0].reason)
    for answer in answers[1:]:
        for class_id in np.flatnonzero(np.isnan(keep)):
            keep[class_id], ignore[class_id] = answer.keep[class_id], answer.ignore[class_id]
            decided = not np.isnan(keep[class_id])
            reason[class_id] = _chained(reason[class_id], answer.reason[class_id], decided)
    return Thresholds(keep, ignore, tuple(reason))


def _chained(before: str, now: str, decided: bool) -> str:
    """Why nothing was decided before, set behind who decides now if somebody does."""
    if not decided:
        return f"{before}; {now}"
    rule, colon, why = now.partition(": ")
    return f"{rule}: {before}; {why}" if colon else f"{rule}: {before}"


@dataclass(frozen=True)
class Fixed(Rule):
    """The thresholds that somebody gave.

    Attributes:
        keep: In [0, 1].
        ignore: In [0, keep]; equal to ``keep``: no box is ignored. A class with
            a lower ``keep`` of its own is ignored from that on at the latest.
        per_class: Class id to its own ``keep``.
    """

    keep: float = 0.5
    ignore: float = 0.5
    per_class: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, value in [("keep", self.keep), *((f"class {c}", v) for c, v in self.per_class.items())]:
            if not 0 <= value <= 1:
                raise UserError(f"fixed threshold, {place}: {value} is not in [0, 1]", "Use a probability.")
        if not 0 <= self.ignore <= self.keep:
            raise UserError(
                f"fixed threshold: boxes are ignored from {self.ignore} on, but kept from {self.keep} on",
                "Ignore from a number between 0 and the other on.",
            )

    def thresholds(self, statistics: Statistics, labelled: Labelled | None = None) -> Thresholds:
        """See `Rule.thresholds`; decides every class."""
        keep = np.full(statistics.num_classes, self.keep, np.float64)
        for class_id, value in self.per_class.items():
            if not 0 <= class_id < len(keep):
                raise UserError(
                    f"fixed threshold: there is no class {class_id}", f"There are {len(keep)} classes."
                )
            keep[class_id] = value
        return Thresholds(keep, np.minimum(keep, self.ignore), ("fixed",) * len(keep))


def kinds(fused: Fused, thresholds: Thresholds) -> NDArray[np.int8]:
    """What every fused box is worth to a student.

    Args:
        fused: N fused boxes.
        thresholds: Of their classes, all decided that occur.

    Returns:
        (N,) int8: `POSITIVE`, `IGNORE` or `DROP`. Scores are compared as float32.

    Raises:
        UserError: A box has a class without thresholds.
    """
    class_id, score = fused.detections.class_id, fused.detections.score
    undecided = np.flatnonzero(~thresholds.decided[class_id])
    if len(undecided):
        first = int(class_id[undecided[0]])
        raise UserError(
            f"no rule could choose a threshold for class {first} ({thresholds.reason[first]})",
            "Let a fixed threshold be the last rule.",
        )
    keep = score >= thresholds.keep.astype(np.float32)[class_id]
    ignore = score >= thresholds.ignore.astype(np.float32)[class_id]
    return np.where(keep, POSITIVE, np.where(ignore, IGNORE, DROP)).astype(np.int8)
