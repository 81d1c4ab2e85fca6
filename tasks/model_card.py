"""Model cards: what the registry says about a version to a person, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_zoo.bundle import Manifest
from tasks.teachers import Teacher

MAX_LENGTH = 5000
"""MLflow's databases keep no more of a description."""
_SHOWN_CLASSES = 100
_SHOWN_TEACHERS = 16
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#!~])")


@dataclass(frozen=True, slots=True)
class StudentFacts:
    """What the card of a student is written from.

    Attributes:
        name: Of the recipe.
        teachers: The teachers.
        classes: The label space.
        images: Counts of the image index.
        source: Where the unlabeled images lay.
        labels: Counts of the pseudo-labels.
        student: Architecture, input, epochs and so on, for people.
        evaluations: Data set name to rows in JSON form.
        digests: ``composition``, ``images``, ``pseudo_labels``, ``student`` and perhaps others.
        run: Page of the tracking run, relative to the server's root.
    """

    name: str
    teachers: Sequence[Teacher]
    classes: Sequence[str]
    images: Mapping[str, int]
    source: str
    labels: Mapping[str, int]
    student: Mapping[str, str]
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]]
    digests: Mapping[str, str]
    run: str


def student_card(facts: StudentFacts) -> str:
    """The card of a student, at most `MAX_LENGTH` letters."""
    settings = ", ".join(f"{name} {value}" for name, value in facts.student.items())
    lines = [
        f"**{_plain(facts.name)}**: one detector of {len(facts.classes)} classes, composed of "
        f"{len(facts.teachers)} teachers on {facts.images.get('images', 0)} unlabeled images "
        f"([run]({facts.run})).",
        "",
        f"Student: {_plain(settings)}.",
        "",
        *_classes(facts.classes),
        *_results(facts.evaluations),
        *_teachers(facts.teachers),
        "### Data",
        f"Images: {_plain(facts.source)}, {facts.images.get('images', 0)} used, "
        f"{facts.images.get('quarantined', 0)} left out. "
        f"Pseudo-labels: {facts.labels.get('labels', 0)} boxes, "
        f"{facts.labels.get('ignore_regions', 0)} ignore regions.",
        "",
        *[f"- {name.replace('_', ' ')}: `{digest}`" for name, digest in facts.digests.items()],
        "",
        "### Limits",
        *[f"- {limit}" for limit in _limits(facts)],
    ]
    return _fitting(lines)


@dataclass(frozen=True, slots=True)
class FinetunedFacts:
    """What the card of a fine-tuned student is written from.

    Attributes:
        name: Its name.
        parent: The detector that it was before.
        classes: Its classes.
        covered: The classes that people's labels were complete for.
        labels: Counts: ``images`` and others.
        source: File of the people's labels.
        evaluations: Data set name to ``AP`` with ``before`` and ``after``.
        run: Page of the tracking run, relative to the server's root.
    """

    name: str
    parent: Teacher
    classes: Sequence[str]
    covered: Sequence[str]
    labels: Mapping[str, int]
    source: str
    evaluations: Mapping[str, Mapping[str, Any]]
    run: str


def finetuned_card(facts: FinetunedFacts) -> str:
    """The card of a student that was fine-tuned on labels, at most `MAX_LENGTH` letters."""
    counts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.labels.items())
    lines = [
        f"**{_plain(facts.name)}**: {_linked(facts.parent)} trained further on labels complete for "
        f"{len(facts.covered)} of its {len(facts.classes)} classes ([run]({facts.run})).",
        "",
        *_classes(facts.classes),
        "### Data",
        f"Labels: {_plain(facts.source)} ({_plain(counts)}), complete for "
        f"{', '.join(_plain(name) for name in facts.covered[:_SHOWN_CLASSES])}.",
        "",
        *[
            f"- AP on {_plain(name)}: {_percent(row['AP']['before'])} before, "
            f"{_percent(row['AP']['after'])} after"
            for name, row in facts.evaluations.items()
        ],
        "",
        "### Limits",
        "- What its parent could not see in pictures of another kind, it has not learned from few labels.",
        *(["- The licence of its parent is unknown."] if _unknown(facts.parent.manifest) else []),
    ]
    return _fitting(lines)


def teacher_card(name: str, manifest: Manifest) -> str:
    """The card of a teacher, at most `MAX_LENGTH` letters."""
    spec = manifest.input
    lines = [
        f"**{_plain(name)}**: a detector of {len(manifest.vocabulary)} classes for {manifest.adapter}, "
        f"input {spec.width} x {spec.height} px, {spec.resize}.",
        "",
        f"Licence of the weights: {_plain(manifest.license)}.",
        "",
        *_classes(manifest.vocabulary),
        f"Digest: `{manifest.digest}`",
        "",
        *[
            f"- {_plain(key)}: {_plain(str(value)[:200])}"
            for key, value in manifest.provenance.items()
            if isinstance(value, str | int | float)
        ],
        "",
        "### Limits",
        "- Its classes mean what the images meant that it was trained on; they are not known here.",
        *(["- The licence is unknown: ask before a student is passed on."] if _unknown(manifest) else []),
    ]
    return _fitting(lines)


def _classes(names: Sequence[str]) -> list[str]:
    shown = ", ".join(_plain(name) for name in names[:_SHOWN_CLASSES])
    more = len(names) - _SHOWN_CLASSES
    return ["### Classes", shown + (f" and {more} more (tag `classes`)" if more > 0 else ""), ""]


def _results(evaluations: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = []
    for dataset, rows in evaluations.items():
        first = next((row for row in rows if row["scope"] == "all"), None)
        if first is None:
            continue
        lines += [
            f"### Measured on {_plain(dataset)}: {first['images']} images, {first['boxes']} boxes (COCO, %)",
            "| | on | AP | 95 % interval | AP50 |",
            "|---|---|---:|---:|---:|",
        ]
        lines += [_result(row) for row in rows]
        lines.append("")
    return lines


def _result(row: Mapping[str, Any]) -> str:
    ends = (row.get("interval") or {}).get("AP")
    spread = f"{ends['low']:.1f} to {ends['high']:.1f}" if ends else "-"
    title = _plain(row["name"] if row["role"] == "ensemble" else f"{row['role']} {row['name']}")
    bold = "**" if row["role"] == "student" else ""
    scope = "all" if row["scope"] == "all" else f"its {row['classes']}"
    return f"| {bold}{title}{bold} | {scope} | {_percent(row['AP'])} | {spread} | {_percent(row['AP50'])} |"


def _teachers(teachers: Sequence[Teacher]) -> list[str]:
    lines = ["### Teachers", "| | classes | licence of the weights | digest |", "|---|---:|---|---|"]
    for teacher in teachers[:_SHOWN_TEACHERS]:
        manifest = teacher.manifest
        lines.append(
            f"| {_linked(teacher)} | {len(manifest.vocabulary)} | {_plain(manifest.license[:80])} "
            f"| `{teacher.digest[:12]}` |"
        )
    more = len(teachers) - _SHOWN_TEACHERS
    return [*lines, *([f"| and {more} more | | | |"] if more > 0 else []), ""]


def _linked(teacher: Teacher) -> str:
    if teacher.origin is None:
        return f"{_plain(teacher.name)} (not in the registry)"
    model, _, number = teacher.origin.removeprefix("models:/").rpartition("/")
    return f"[{_plain(teacher.name)} version {number}](#/models/{model}/versions/{number})"


def _limits(facts: StudentFacts) -> list[str]:
    limits = [
        "Learned from other detectors' boxes: what all teachers overlook or confuse, it does too.",
    ]
    if not facts.evaluations:
        limits.append("Nothing was measured: the recipe has no evaluation set.")
    for dataset, rows in facts.evaluations.items():
        row = next((one for one in rows if one["role"] == "student"), None)
        if row is None:
            continue
        if row["images"] < 100:
            limits.append(f"Measured on {row['images']} images of {_plain(dataset)} only.")
        measured = {name for name, values in row["per_class"].items() if values["AP"] is not None}
        unseen = [name for name in facts.classes if name not in measured]
        if unseen:
            shown = ", ".join(_plain(name) for name in unseen[:12]) + (", ..." if len(unseen) > 12 else "")
            limits.append(f"Not measured on {_plain(dataset)}, which has none: {shown}.")
    unknown = [teacher.name for teacher in facts.teachers if _unknown(teacher.manifest)]
    if unknown:
        limits.append(
            f"Licence unknown of: {', '.join(_plain(name) for name in unknown)}; ask before it is passed on."
        )
    return limits


def _unknown(manifest: Manifest) -> bool:
    return manifest.license == "unknown"


def _percent(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"


def _plain(text: str) -> str:
    """Class names and licences come from strangers: no letter of theirs is markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _fitting(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if len(text) <= MAX_LENGTH:
        return text
    # whole lines only: half a table row is no table
    return text[: MAX_LENGTH - 4].rpartition("\n")[0] + "\n..."
