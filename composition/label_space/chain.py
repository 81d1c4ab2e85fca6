"""Two label spaces one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from composition.label_space.mapping import base_class, entries_of, ignored, positives
from composition.label_space.space import Entry, LabelSpace, Relation, ancestors


def compose(first: LabelSpace, second: LabelSpace) -> LabelSpace:
    """The label space that maps in one step what two map one after the other.

    Args:
        first: The teachers' classes into U.
        second: Its only teacher has the vocabulary U, in the same order, as a
            student trained on U has.

    Returns:
        The teachers of ``first`` into the classes of ``second``. A detection
        has the same positives as after both steps. It leaves open at least what
        both steps leave open: what a class certainly is goes through the second
        step, and what it may be stays open as everything that this may become.

    Raises:
        UserError: ``second`` has other classes or teachers, or tears the
            hierarchy of ``first`` apart, so that no single entry says the same.
    """
    if len(second.teachers) != 1:
        raise UserError(
            f"the second label space must have one teacher, it has {len(second.teachers)}",
            "Give the one whose vocabulary is the first label space's classes.",
        )
    (middle,) = second.teachers
    onward = entries_of(second, middle)
    if tuple(entry.teacher_class for entry in onward) != first.classes:
        raise UserError(
            f"the vocabulary of {middle!r} is not the list of classes of the first label space",
            "The second label space must map exactly those classes, in their order.",
        )
    exact = {entry.teacher_class for entry in onward if entry.relation == "same"}
    surely, perhaps = positives(second, middle), ignored(second, middle)
    wanted: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    teachers = {}
    for teacher, entries in first.teachers.items():
        positive = positives(first, teacher) @ surely
        open_ = ignored(first, teacher) @ (surely | perhaps)
        for row, entry in enumerate(entries):
            base = base_class(first, entry)
            if base is not None:
                open_[row] |= perhaps[first.classes.index(base)]
        wanted[teacher] = (positive, open_ & ~positive)
        teachers[teacher] = tuple(
            _entry(second, entry, positive[row], wanted[teacher][1][row], exact)
            for row, entry in enumerate(entries)
        )
    result = LabelSpace(second.classes, teachers, dict(second.parents))
    for teacher, (positive, open_) in wanted.items():
        _check(result, teacher, positive, open_)
    return result


def _entry(
    space: LabelSpace,
    entry: Entry,
    positive: NDArray[np.bool_],
    open_: NDArray[np.bool_],
    exact: set[str],
) -> Entry:
    """The entry that says that a class surely is ``positive`` and may be ``open_``."""
    name = entry.teacher_class
    sure = [space.classes[i] for i in np.flatnonzero(positive)]
    maybe = [space.classes[i] for i in np.flatnonzero(open_)]
    if sure:
        base = max(sure, key=lambda other: len(ancestors(space, other)))
        relation: Relation = "same" if entry.relation == "same" and entry.target in exact else "narrower"
        return Entry(name, relation, base)
    roots = [other for other in maybe if not set(ancestors(space, other)) & set(maybe)]
    if not roots:
        return Entry(name, "drop")
    # siblings have a common parent, which is not certain here: it is left open as well
    wide = base_class(space, Entry(name, "broader", *roots))
    while wide is not None:
        roots = [wide]
        wide = base_class(space, Entry(name, "broader", wide))
    return Entry(name, "broader", *roots)


def _check(result: LabelSpace, teacher: str, positive: NDArray[np.bool_], open_: NDArray[np.bool_]) -> None:
    differs = positive != positives(result, teacher)
    differs |= open_ & ~ignored(result, teacher)
    rows = np.flatnonzero(differs.any(axis=1))
    if len(rows):
        name = result.teachers[teacher][int(rows[0])].teacher_class
        raise UserError(
            f"class {name!r} of teacher {teacher!r} cannot be sent through both label spaces in one step",
            "Let the second keep the hierarchy of the first: a parent's target above its child's.",
        )
