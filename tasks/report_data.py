"""What a report shows, as plain values: whoever gathers them needs no HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.diagnostics import Diagnosis

Role = Literal["teacher", "ensemble", "student", "baseline"]


@dataclass(frozen=True, slots=True)
class TeacherInfo:
    """A teacher as the plan lists it."""

    name: str
    adapter: str
    classes: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What was measured of one detector.

    Attributes:
        name: The detector; its rows of both scopes share a line of the table.
        role: What it is.
        scope: ``own`` = only the classes it knows, ``all`` = the whole label
            space, where a class that it does not know counts as 0.
        ap: COCO AP in percent.
        ap50: AP at IoU 0.5 in percent.
        per_class: AP in percent by class; classes that the detector does not
            know, or that the data set does not hold, are absent.
        interval: 95 % interval of ``ap`` over images, ``low`` and ``high``.
        lead: Student minus this detector in AP: ``value``, ``low``, ``high``, ``p``.
        cost: What it costs, see `tasks.benchmark_speed.Cost`.
    """

    name: str
    role: Role
    scope: Literal["own", "all"]
    ap: float
    ap50: float
    per_class: Mapping[str, float] = field(default_factory=dict)
    interval: Mapping[str, float] | None = None
    lead: Mapping[str, float] | None = None
    cost: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """Scores of one teacher on the unlabeled images.

    Attributes:
        teacher: Its name.
        edges: (B + 1,) bin edges in [0, 1].
        counts: (B,) detections a bin.
    """

    teacher: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """One epoch: mean loss, and learning rate at its end."""

    epoch: int
    loss: float
    lr: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One drawn view of a picture; detections in the union label space, pixels of the original."""

    title: str
    detections: Detections
    ignored: Detections | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """An unlabeled image, (height, width, 3) uint8 RGB, and what everybody saw in it."""

    image: NDArray[np.uint8]
    cells: tuple[Cell, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page. Empty fields leave their section out.

    Attributes:
        title: Headline.
        created: When, in words.
        summary: A few sentences under the headline.
        classes: The union classes in order.
        teachers: The plan's teachers.
        student: Facts about the student, e.g. ``{"architecture": ...}``.
        coverage: Union class to teacher name to that teacher's own name for it.
        results: Rows in the order in which they are to be shown.
        results_note: On what they were measured.
        diagnosis: What could be said before training.
        confusion: The student's classes, see `composition.evaluation.Confusion`.
        pseudo_labels: Class to source to number of boxes; a source is who
            agreed (``"low"``, ``"low + high"``) or ``"ignored"``.
        scores: Score histograms.
        training: Epochs in order.
        pictures: Picture rows.
        provenance: Digests, versions, seed.
        durations: Step to seconds.
        command: What to type to get this again.
    """

    title: str
    created: str = ""
    summary: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    teachers: tuple[TeacherInfo, ...] = ()
    student: Mapping[str, str] = field(default_factory=dict)
    coverage: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    results: tuple[ResultRow, ...] = ()
    results_note: str = ""
    diagnosis: Diagnosis | None = None
    confusion: Mapping[str, Any] | None = None
    pseudo_labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    scores: tuple[ScoreHistogram, ...] = ()
    training: tuple[TrainingPoint, ...] = ()
    pictures: tuple[Picture, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
