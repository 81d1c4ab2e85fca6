"""Gathers what a finished composition has to show and writes its report page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from composition import detections as table
from composition import label_space as spaces
from composition import pseudo_labels as pseudo
from composition.detections import Detections
from composition.label_space import LabelSpace
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.images import BadImageError
from tasks.diagnosis import load_diagnosis
from tasks.image_index import ImageRecord, iter_index
from tasks.infer import load_detections
from tasks.label import iter_labels
from tasks.pixels import read_record
from tasks.report import choose_pictures, write_report
from tasks.report_data import (
    Cell,
    Picture,
    ReportData,
    ResultRow,
    ScoreHistogram,
    TeacherInfo,
    TrainingPoint,
)
from tasks.step import step
from tasks.store import Artifact
from tasks.teachers import Teacher
from tasks.train import as_teacher, load_history
from tasks.trial import Verdict

PICTURES = 6
SHOWN_SCORE = 0.3
"""Score from which a box of a teacher or of the student is drawn."""
_BINS = np.linspace(0.0, 1.0, 41)
# enough for a picture choice and a histogram, and bounded however large the pool is
_SAMPLED_SHARDS = 8


@dataclass(frozen=True, slots=True)
class Finished:
    """The artifacts of a composition that has come to its end.

    Attributes:
        name: Of the recipe.
        facts: Digests and numbers for the provenance table.
        student_facts: What was chosen about the student.
        space: The label space.
        teachers: The teachers.
        index: The images.
        shards: Teacher name to its shards.
        labels: The pseudo-labels.
        diagnosis: What was seen before training.
        student: The student.
        verdict: What its trial against its start said, if there was one.
        evaluations: Data set name to rows in JSON form.
        seconds: Durations of the steps.
        command: What to type to get this again.
        created: When it was finished.
    """

    name: str
    facts: Mapping[str, str]
    student_facts: Mapping[str, str]
    space: LabelSpace
    teachers: Sequence[Teacher]
    index: Artifact
    shards: Mapping[str, Sequence[Artifact]]
    labels: Artifact
    diagnosis: Artifact
    student: Artifact
    verdict: Verdict | None
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]]
    seconds: Mapping[str, float]
    command: str
    created: str


def publish_report(folder: Path, done: Finished) -> Path:
    """Writes ``report.html`` of a finished composition.

    Args:
        folder: Where to.
        done: The composition's artifacts.

    Returns:
        The page.
    """
    classes = done.space.classes
    # the first evaluation set has the headline; the others follow in metrics.json and per_class.csv
    dataset, rows = next(iter(done.evaluations.items()), ("", ()))
    data = ReportData(
        title=done.name,
        created=done.created,
        summary=_summary(done),
        classes=classes,
        teachers=tuple(
            TeacherInfo(t.name, t.manifest.adapter, t.manifest.vocabulary, t.digest) for t in done.teachers
        ),
        student=done.student_facts,
        coverage=_coverage(done.space),
        results=_results(rows),
        results_note=_results_note(dataset, rows),
        pseudo_labels=_label_sources(done.labels, classes, [t.name for t in done.teachers]),
        confusion=next((row["confusion"] for row in rows if "confusion" in row), None),
        scores=tuple(_histogram(done, teacher.name) for teacher in done.teachers),
        training=tuple(
            TrainingPoint(int(point["epoch"]), point["loss"], point["learning_rate"])
            for point in load_history(done.student)
        ),
        pictures=_pictures(done),
        diagnosis=load_diagnosis(done.diagnosis),
        provenance=done.facts,
        durations=done.seconds,
        command=done.command,
    )
    return write_report(folder, data)


report_task = step(publish_report, "report")


def _summary(done: Finished) -> tuple[str, ...]:
    counts = done.labels.counts
    sentences = [
        f"{len(done.teachers)} teachers labelled {counts['images']} images "
        f"with {counts['labels']} pseudo-labels of {len(done.space.classes)} classes; "
        "one student was trained on them without any label made by a person."
    ]
    if done.verdict and not done.verdict.student_kept:
        sentences.append(
            "It was not clearly better than what it started from on the images held out, "
            "so what it started from is the student."
        )
    bad = done.index.counts.get("quarantined", 0)
    if bad:
        sentences.append(f"{bad} images could not be used and were left out.")
    return tuple(sentences)


def _coverage(space: LabelSpace) -> dict[str, dict[str, str]]:
    known: dict[str, dict[str, str]] = {name: {} for name in space.classes}
    for teacher, entries in space.teachers.items():
        for entry in entries:
            if entry.target is not None and entry.relation != "drop":
                known[entry.target][teacher] = entry.teacher_class
    return known


def _results(rows: Sequence[Mapping[str, Any]]) -> tuple[ResultRow, ...]:
    """The rows; over all classes, a teacher's unknown ones are left out, for they are no failure of its."""
    own = {row["name"]: set(row["per_class"]) for row in rows if row["scope"] == "own"}
    results = []
    for row in rows:
        everything = set(row["per_class"])
        known = own.get(row["name"], set()) if row["role"] == "teacher" else everything
        results.append(_result(row, known))
    return tuple(results)


def _result(row: Mapping[str, Any], known: Set[str]) -> ResultRow:
    per_class = {
        name: values["AP"]
        for name, values in row["per_class"].items()
        if values["AP"] is not None and name in known
    }
    return ResultRow(
        row["name"],
        row["role"],
        row["scope"],
        row["AP"] or 0.0,
        row["AP50"] or 0.0,
        per_class,
        interval=row["interval"]["AP"],
        lead=(row.get("lead") or {}).get("AP"),
        cost=row.get("cost"),
    )


def _results_note(dataset: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    first = next(row for row in rows if row["scope"] == "all")
    return (
        f"{dataset}: {first['images']} images, {first['boxes']} boxes; "
        "COCO AP, at most 100 detections an image."
    )


def _label_sources(
    artifact: Artifact, classes: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Class to who agreed to its labels, or "ignored", to their number."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in classes}
    for labels in iter_labels(artifact):
        columns = (labels.class_id, labels.kind == pseudo.POSITIVE, labels.teachers)
        rows = np.stack([column.astype(np.int64) for column in columns], axis=1)
        # a pool may have millions of labels, but few teachers agree in many ways
        kinds, sizes = np.unique(rows, axis=0, return_counts=True)
        for (class_id, positive, mask), size in zip(kinds.tolist(), sizes.tolist(), strict=True):
            agreed = " + ".join(name for bit, name in enumerate(names) if mask >> bit & 1)
            counts[classes[class_id]][agreed if positive else "ignored"] += size
    return {name: dict(counter) for name, counter in counts.items()}


def _histogram(done: Finished, teacher: str) -> ScoreHistogram:
    counts = np.zeros(len(_BINS) - 1, np.int64)
    for shard in done.shards[teacher]:
        counts += np.histogram(load_detections(shard).score, _BINS)[0]
    return ScoreHistogram(teacher, tuple(_BINS.tolist()), tuple(counts.tolist()))


def _pictures(done: Finished) -> tuple[Picture, ...]:
    views: dict[str, Detections] = {}
    for teacher in done.teachers:
        mapped = spaces.map_detections(
            done.space,
            teacher.name,
            table.concatenate(
                [load_detections(shard) for shard in done.shards[teacher.name][:_SAMPLED_SHARDS]]
            ),
        )
        views[teacher.name] = mapped[mapped.score >= SHOWN_SCORE]
    labels = pseudo.concatenate(list(islice(iter_labels(done.labels), _SAMPLED_SHARDS)))
    sampled = sum(shard.counts["images"] for shard in done.shards[done.teachers[0].name][:_SAMPLED_SHARDS])
    records = {record.image_id: record for record in islice(iter_index(done.index), sampled)}
    ranked = choose_pictures(views, list(records), len(records))
    student = as_teacher(done.student)
    detector = open_detector(student.folder, InferenceSettings(score_floor=SHOWN_SCORE))
    return tuple(
        _picture(record, image, views, labels, detector.predict([image]))
        for record, image in islice(_readable(records[image_id] for image_id in ranked), PICTURES)
    )


def _readable(records: Iterable[ImageRecord]) -> Iterator[tuple[ImageRecord, Image]]:
    """Images with their pixels; one that was there when the work began may be gone at its end."""
    for record in records:
        try:
            yield record, read_record(record)
        except BadImageError:
            continue


def _picture(
    record: ImageRecord,
    image: Image,
    views: Mapping[str, Detections],
    labels: pseudo.PseudoLabels,
    by_student: Detections,
) -> Picture:
    cells = [Cell(name, view[view.image_id == record.image_id]) for name, view in views.items()]
    mine = labels[labels.image_id == record.image_id]
    ignored = pseudo.as_detections(mine, pseudo.IGNORE)
    cells.append(Cell("pseudo-labels", pseudo.as_detections(mine), ignored=ignored))
    cells.append(Cell("student", by_student))
    return Picture(image, tuple(cells), record.path)
