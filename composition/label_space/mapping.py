"""What follows from a label space: positives, ignore regions, coverage, related classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.label_space.space import Entry, LabelSpace, ancestors, descendants

Coverage = Literal["same", "narrower", "broader", "none"]


def entries_of(space: LabelSpace, teacher: str) -> tuple[Entry, ...]:
    """One teacher's entries.

    Raises:
        UserError: The label space was made for other teachers.
    """
    try:
        return space.teachers[teacher]
    except KeyError:
        raise UserError(
            f"the label space does not know teacher {teacher!r}",
            f"It was made for: {', '.join(map(repr, space.teachers))}.",
        ) from None


def base_class(space: LabelSpace, entry: Entry) -> str | None:
    """The narrowest union class that every box of a teacher class belongs to.

    That is the target of ``same`` and ``narrower``, and the nearest common
    parent of the targets of ``broader`` where the hierarchy has one: writing
    ``vehicle: {broader: [car, bus]}`` says that it is no wider than what car
    and bus are kinds of. None where there is no such class.
    """
    if entry.relation != "broader":
        return entry.target
    chains = [ancestors(space, target) for target in entry.targets]
    common = [name for name in chains[0] if all(name in chain for chain in chains)]
    return common[0] if common else None


def positives(space: LabelSpace, teacher: str) -> NDArray[np.bool_]:
    """Which union classes a box of each teacher class is a box of.

    Returns:
        (K, C) bool, K the length of the teacher's vocabulary, C the number of
        union classes: the base class (`base_class`) and its ancestors.

    Raises:
        UserError: An unknown teacher.
    """
    names: list[tuple[str, ...]] = []
    for entry in entries_of(space, teacher):
        base = base_class(space, entry)
        names.append(() if base is None else (base, *ancestors(space, base)))
    return _matrix(space, names)


def ignored(space: LabelSpace, teacher: str) -> NDArray[np.bool_]:
    """Which union classes a box of each teacher class may or may not be a box of.

    These are the targets of ``broader`` and all their descendants, and the
    descendants of the base class, for a box of a vehicle may be a car. A
    descendant for which the teacher has a class of its own (``same``) is left
    out unless it is named as a target: there the teacher speaks for itself.

    Returns:
        (K, C) bool; never True where `positives` is.

    Raises:
        UserError: An unknown teacher.
    """
    entries = entries_of(space, teacher)
    own = {entry.target for entry in entries if entry.relation == "same"}
    names: list[set[str]] = []
    for entry in entries:
        targets = set(entry.targets) if entry.relation == "broader" else set()
        base = base_class(space, entry)
        roots = targets if base is None else {*targets, base}
        below = {name for root in roots for name in descendants(space, root)}
        names.append(targets | (below - own))
    return _matrix(space, [tuple(group) for group in names]) & ~positives(space, teacher)


def _matrix(space: LabelSpace, names: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    index = {name: position for position, name in enumerate(space.classes)}
    matrix = np.zeros((len(names), len(space.classes)), np.bool_)
    for row, group in enumerate(names):
        matrix[row, [index[name] for name in group]] = True
    return matrix


def map_detections(space: LabelSpace, teacher: str, detections: Detections) -> Detections:
    """Puts one teacher's detections into the union classes.

    A box of a ``same`` or ``narrower`` class becomes a box of its target and of
    every ancestor of the target. A box of a ``broader`` class becomes a box of
    the nearest common parent of its targets, where U has one. All others
    vanish; see `ignore_regions` for what they leave behind.

    Args:
        space: The label space.
        teacher: Whose detections they are.
        detections: Class ids index the teacher's vocabulary.

    Returns:
        Sorted detections whose class ids index ``space.classes``.

    Raises:
        UserError: An unknown teacher or a class id outside its vocabulary.
    """
    return _expand(positives(space, teacher), teacher, detections)


def ignore_regions(space: LabelSpace, teacher: str, detections: Detections) -> Detections:
    """The boxes about which a teacher leaves open which class they have.

    Inside them there must be no negative loss for their class: a box of
    ``vehicle`` may be a car. Where somebody else has a positive of that class,
    the positive counts and the region is void.

    Args:
        space: The label space.
        teacher: Whose detections they are.
        detections: Class ids index the teacher's vocabulary.

    Returns:
        Sorted detections whose class ids index ``space.classes``: one row for
        each box and union class of `ignored`, with the score of the box.

    Raises:
        UserError: An unknown teacher or a class id outside its vocabulary.
    """
    return _expand(ignored(space, teacher), teacher, detections)


def _expand(matrix: NDArray[np.bool_], teacher: str, detections: Detections) -> Detections:
    """One row for each detection and each True in the row of its class."""
    found = detections.class_id
    if len(found) and not (0 <= found.min() <= found.max() < len(matrix)):
        raise UserError(
            f"teacher {teacher!r} returned class ids {found.min()} to {found.max()}, "
            f"but its vocabulary has {len(matrix)} classes",
            "Add the teacher again with the class list that it was trained on.",
        )
    # the targets of all classes end to end: no (detections x classes) array
    counts = matrix.sum(axis=1)
    starts = np.cumsum(counts) - counts
    flat = np.nonzero(matrix)[1]
    times = counts[found]
    rows = np.repeat(np.arange(len(found)), times)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    targets = flat[np.repeat(starts[found], times) + within]
    return table.sort(replace(detections[rows], class_id=targets.astype(np.int32)))


def coverage(space: LabelSpace) -> NDArray[np.bool_]:
    """Who can express what.

    Returns:
        (C, T) bool: True where a class of teacher t is the same as union class
        c or a kind of it (through the hierarchy, too), so that its boxes are
        positives of c. Rows without True have no expert.
    """
    matrix = np.zeros((len(space.classes), len(space.teachers)), np.bool_)
    for column, teacher in enumerate(space.teachers):
        matrix[:, column] = positives(space, teacher).any(axis=0)
    return matrix


def relations(space: LabelSpace) -> tuple[tuple[Coverage, ...], ...]:
    """The coverage matrix with what each teacher can say about each class.

    Returns:
        C rows of T: ``same``: the teacher has this very class; ``narrower``: it
        has only kinds of it, so its silence says little; ``broader``: it has
        only something wider, its boxes become ignore regions; ``none``.
    """
    columns: list[list[Coverage]] = []
    for teacher, entries in space.teachers.items():
        same = {entry.target for entry in entries if entry.relation == "same"}
        positive = np.atleast_1d(positives(space, teacher).any(axis=0)).tolist()
        open_ = np.atleast_1d(ignored(space, teacher).any(axis=0)).tolist()
        columns.append(
            [
                "same" if name in same else "narrower" if sees else "broader" if unsure else "none"
                for name, sees, unsure in zip(space.classes, positive, open_, strict=True)
            ]
        )
    return tuple(zip(*columns, strict=True)) if columns else ((),) * len(space.classes)


def experts(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    """E(c) of every union class: the teachers that can express it, in order."""
    names = tuple(space.teachers)
    return {
        name: tuple(names[column] for column in np.flatnonzero(row))
        for name, row in zip(space.classes, coverage(space), strict=True)
    }


def related(space: LabelSpace) -> NDArray[np.bool_]:
    """Which union classes may stand on one object without a conflict.

    Returns:
        (C, C) bool, symmetric, False on the diagonal: True where one class is
        an ancestor of the other.
    """
    kind_of = _matrix(space, [ancestors(space, name) for name in space.classes])
    return kind_of | kind_of.T
