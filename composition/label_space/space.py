"""The label space as a value, and what follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError

Relation = Literal["same", "narrower", "broader", "drop"]
RELATIONS: tuple[str, ...] = get_args(Relation)

# Relations whose boxes are positives of their target. A broader class ("vehicle"
# for "car") says nothing about which child it saw: its boxes are not positives.
POSITIVE: tuple[str, ...] = ("same", "narrower")


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes of one teacher class.

    Attributes:
        teacher_class: Its name in the teacher's vocabulary.
        relation: ``same``: the target under another name; ``narrower``: a kind
            of the target, so its boxes are the target's; ``broader``: the
            target is a kind of it, so its boxes may or may not be; ``drop``:
            not wanted.
        target: A union class; None exactly for ``drop``.
    """

    teacher_class: str
    relation: Relation
    target: str | None

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise UserError(f"class {self.teacher_class!r}: {self.relation!r} is not a relation", WAY_OUT)
        if (self.target is None) != (self.relation == "drop"):
            needs = "takes no target" if self.relation == "drop" else "needs a target"
            raise UserError(f"class {self.teacher_class!r}: relation {self.relation!r} {needs}", WAY_OUT)


WAY_OUT = f"Use one of {', '.join(RELATIONS)}; all but drop with a union class."


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """Union classes and every teacher's way into them.

    Attributes:
        classes: Names of the union classes; their order is the class id.
        teachers: Teacher name to its entries, in the order of its vocabulary:
            entry i belongs to the teacher's class id i. The order of the
            teachers is the order of their bits in provenance masks.

    Raises:
        UserError: Classes missing, blank or duplicate; an entry with a target
            outside ``classes``; a teacher class that appears twice.
    """

    classes: tuple[str, ...]
    teachers: dict[str, tuple[Entry, ...]]

    def __post_init__(self) -> None:
        check_classes(self.classes, "label space")
        known = set(self.classes)
        for teacher, entries in self.teachers.items():
            seen: set[str] = set()
            for entry in entries:
                if entry.teacher_class in seen:
                    raise UserError(f"label space: teacher {teacher!r} has {entry.teacher_class!r} twice")
                seen.add(entry.teacher_class)
                if entry.target is not None and entry.target not in known:
                    raise UserError(
                        f"label space: teacher {teacher!r} sends {entry.teacher_class!r} to "
                        f"{entry.target!r}, which is not a union class"
                    )


def check_classes(classes: Sequence[str], source: str) -> None:
    """Checks the names of union classes.

    Raises:
        UserError: There are none, or one is blank or appears twice.
    """
    if not classes:
        raise UserError(f"{source}: there are no classes", "A label space needs at least one class.")
    seen = set()
    for name in classes:
        if not name.strip():
            raise UserError(f"{source}: a class name is blank", "Name the class or remove it.")
        if name in seen:
            raise UserError(f"{source}: class {name!r} appears twice", "Remove one of them.")
        seen.add(name)


def _entries(space: LabelSpace, teacher: str) -> tuple[Entry, ...]:
    try:
        return space.teachers[teacher]
    except KeyError:
        raise UserError(
            f"the label space does not know teacher {teacher!r}",
            f"It was made for: {', '.join(map(repr, space.teachers))}.",
        ) from None


def lookup(space: LabelSpace, teacher: str) -> NDArray[np.int32]:
    """Teacher class id to union class id, -1 where its boxes are not positives.

    Returns:
        (K,) int32, K the length of the teacher's vocabulary.
    """
    index = {name: position for position, name in enumerate(space.classes)}
    return np.array(
        [
            index[entry.target] if entry.target is not None and entry.relation in POSITIVE else -1
            for entry in _entries(space, teacher)
        ],
        np.int32,
    )


def map_detections(space: LabelSpace, teacher: str, detections: Detections) -> Detections:
    """Puts one teacher's detections into the union classes.

    ``same`` and ``narrower`` classes become their target; the boxes of dropped
    and of ``broader`` classes vanish.

    Args:
        space: The label space.
        teacher: Whose detections they are.
        detections: Class ids index the teacher's vocabulary.

    Returns:
        Sorted detections whose class ids index ``space.classes``.

    Raises:
        UserError: An unknown teacher or a class id outside its vocabulary.
    """
    ids = lookup(space, teacher)
    if len(detections) and not (0 <= detections.class_id.min() <= detections.class_id.max() < len(ids)):
        raise UserError(
            f"teacher {teacher!r} returned class ids {detections.class_id.min()} to "
            f"{detections.class_id.max()}, but its vocabulary has {len(ids)} classes",
            "Add the teacher again with the class list that it was trained on.",
        )
    mapped = replace(detections, class_id=ids[detections.class_id])
    return table.sort(mapped[mapped.class_id >= 0])


def coverage(space: LabelSpace) -> NDArray[np.bool_]:
    """Who can express what.

    Returns:
        (C, T) bool: True where a class of teacher t is the same as union class
        c or a kind of it. Rows without True have no expert.
    """
    matrix = np.zeros((len(space.classes), len(space.teachers)), np.bool_)
    for column, teacher in enumerate(space.teachers):
        ids = lookup(space, teacher)
        matrix[ids[ids >= 0], column] = True
    return matrix


def experts(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    """E(c) of every union class: the teachers that can express it, in order."""
    names = tuple(space.teachers)
    return {
        name: tuple(names[column] for column in np.flatnonzero(row))
        for name, row in zip(space.classes, coverage(space), strict=True)
    }


def to_json(space: LabelSpace) -> dict[str, Any]:
    """The label space as JSON values; the inverse is `from_json`."""
    return {
        "version": 1,
        "classes": list(space.classes),
        "teachers": [
            {
                "name": teacher,
                "classes": [
                    {"class": entry.teacher_class, "relation": entry.relation, "target": entry.target}
                    for entry in entries
                ],
            }
            for teacher, entries in space.teachers.items()
        ],
    }


def from_json(document: Mapping[str, Any], source: str = "label_space.json") -> LabelSpace:
    """Reads what `to_json` wrote.

    Raises:
        UserError: Another version, or not a label space.
    """
    if document.get("version") != 1:
        raise UserError(
            f"{source}: version {document.get('version')!r} is not known", "This detcompose reads 1."
        )
    try:
        return LabelSpace(
            classes=tuple(document["classes"]),
            teachers={
                teacher["name"]: tuple(
                    Entry(row["class"], row["relation"], row["target"]) for row in teacher["classes"]
                )
                for teacher in document["teachers"]
            },
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{source} is not a label space: {error!r}", "Write it again from its YAML or recipe."
        ) from None


def digest(space: LabelSpace) -> str:
    """sha256 of the canonical JSON, hex: equal digests, equal mapping and class ids."""
    text = json.dumps(to_json(space), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
