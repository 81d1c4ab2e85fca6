"""The lines of a comparison: what was measured of each detector, and how the student stands to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from composition import evaluation
from composition.detections import Detections
from composition.evaluation import Confusion, Difference, Measured

STUDENT = "student"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one detector on one choice of categories."""

    measured: Measured
    confusion: Confusion


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: Who was measured.
        role: ``teacher``, ``ensemble``, ``baseline`` or ``student``.
        scope: ``own`` = only the classes it knows, ``all`` = the whole label space.
        outcome: What was measured.
        lead: Student minus this detector, on this line's categories; None for
            the student itself.
    """

    name: str
    role: str
    scope: str
    outcome: Outcome
    lead: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the metrics, ``interval`` beside them, ``lead`` and the student's ``confusion``."""
        document: dict[str, Any] = {
            "name": self.name,
            "role": self.role,
            "scope": self.scope,
            **self.outcome.measured.metrics.to_dict(),
            "interval": evaluation.intervals(self.outcome.measured.tally).to_dict(),
        }
        if self.lead is not None:
            document["lead"] = self.lead.to_dict()
        if self.role == STUDENT:
            document["confusion"] = self.outcome.confusion.to_dict()
        return document


def examine(
    found: Detections, coco: Mapping[str, Any], classes: Sequence[str], categories: Sequence[str]
) -> Outcome:
    """Measures detections on some categories of a data set.

    Args:
        found: Detections with image ids of the data set.
        coco: The data set.
        classes: Their class names.
        categories: Names of the categories to measure on.

    Raises:
        UserError: As `composition.evaluation.evaluate`.
    """
    return Outcome(
        evaluation.measure(found, coco, classes, restrict_to=categories),
        evaluation.confusion(found, coco, classes, restrict_to=categories),
    )


def with_leads(rows: Sequence[Row]) -> list[Row]:
    """Compares the first student with every other row, each on the categories of that row."""
    student = next((row for row in rows if row.role == STUDENT), None)
    if student is None:
        return list(rows)
    ours = student.outcome.measured.tally
    return [
        row
        if row is student
        else replace(row, lead=evaluation.paired_difference(ours, row.outcome.measured.tally))
        for row in rows
    ]
