"""Global statistics of fused shards by map and reduce: sums only, of a size that no number of images changes.

Example:
    >>> parts = [statistics_of(fused, tables, coverage, images) for ...]  # doctest: +SKIP
    >>> whole = reduce(merge, parts, empty(classes, teachers))  # doctest: +SKIP

Everything is an integer, so that sums are exact in any order: where the shards
begin and end changes nothing, as long as an image lies in one shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.base import Fused

BINS: Final = 1024
"""Bins of fused scores. A power of two: their edges k / 1024 are exact in float32, and so is the binning."""
RAW_BINS: Final = 128
"""Bins of the teachers' raw scores."""
UNIT: Final = 2**30
"""Scores are summed as whole multiples of 1 / `UNIT`: exact for 2^33 boxes."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over fused boxes of C classes and T teachers.

    A bin k of B holds the scores in [k / B, (k + 1) / B), the last one 1, too.

    Attributes:
        images: Images looked at, with boxes or without.
        images_with_box: Images with a fused box of any class.
        class_images: (C,) int64, images with a fused box of the class.
        scores: (C, `BINS`) int64, histogram of the fused scores.
        mass: (C,) int64, sum of the fused scores in 1 / `UNIT`; see `expected`.
        members: (C, T) int64, fused boxes that a teacher has a part in.
        together: (T, T) int64, fused boxes that both teachers have a part in.
        asked: (T, T) int64 ``[s, t]``: fused boxes that s has a part in and whose
            class t can see; t could have had a part.
        together_mass: As ``together``, every box counted with its fused score, in 1 / `UNIT`.
        asked_mass: As ``asked``, likewise.
        raw: (T, C, `RAW_BINS`) int64, histogram of every teacher's own scores.
    """

    images: int
    images_with_box: int
    class_images: Ints
    scores: Ints
    mass: Ints
    members: Ints
    together: Ints
    asked: Ints
    together_mass: Ints
    asked_mass: Ints
    raw: Ints

    def __eq__(self, other: object) -> bool:
        """Equal in every number."""
        return isinstance(other, Statistics) and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.scores)

    @property
    def num_teachers(self) -> int:
        """T."""
        return len(self.together)

    @property
    def boxes(self) -> Ints:
        """(C,) fused boxes."""
        return np.asarray(self.scores.sum(axis=1))

    @property
    def expected(self) -> NDArray[np.float64]:
        """(C,) sum of the fused scores: the expected number of right boxes if they are probabilities."""
        return self.mass / UNIT

    @property
    def agreement(self) -> NDArray[np.float64]:
        """(T, T) ``[s, t]``: of the expected right boxes of s that t could have had, the share that it has.

        NaN where t can see none of them.
        """
        return np.where(self.asked_mass > 0, self.together_mass / np.maximum(self.asked_mass, 1), np.nan)

    def kept(self, threshold: NDArray[np.float64]) -> Ints:
        """(C,) fused boxes that score at least (C,) thresholds, rounded up to edges of bins."""
        above = np.cumsum(self.scores[:, ::-1], axis=1)[:, ::-1]
        above = np.concatenate([above, np.zeros((self.num_classes, 1), np.int64)], axis=1)
        edge = np.ceil(np.asarray(threshold) * BINS).astype(np.int64)
        return np.asarray(above[np.arange(self.num_classes), edge])


def empty(classes: int, teachers: int) -> Statistics:
    """The statistics of no images: what `merge` leaves everything unchanged with."""

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Statistics(
        images=0,
        images_with_box=0,
        class_images=zeros(classes),
        scores=zeros(classes, BINS),
        mass=zeros(classes),
        members=zeros(classes, teachers),
        together=zeros(teachers, teachers),
        asked=zeros(teachers, teachers),
        together_mass=zeros(teachers, teachers),
        asked_mass=zeros(teachers, teachers),
        raw=zeros(teachers, classes, RAW_BINS),
    )


def statistics_of(
    fused: Fused, tables: Sequence[Detections], coverage: NDArray[np.bool_], images: int
) -> Statistics:
    """The statistics of one shard.

    Args:
        fused: What a fuser made of the shard.
        tables: One per teacher, what it was made of, in the union classes.
        coverage: (C, T) bool, who can see which class.
        images: Images of the shard, also those without boxes.

    Raises:
        UserError: The numbers of teachers differ, or there are fewer images than have boxes.
    """
    classes, teachers = coverage.shape
    if not len(tables) == teachers == fused.scores.shape[1]:
        raise UserError(
            f"statistics: {len(tables)} tables and {fused.scores.shape[1]} fused teachers, "
            f"but a coverage of {teachers}",
            "Give the tables that were fused and the coverage of the same label space.",
        )
    rows = fused.detections
    seen, image = np.unique(rows.image_id, return_inverse=True)
    if len(seen) > images:
        raise UserError(
            f"statistics: {len(seen)} images have boxes, but the shard has {images}",
            "Count all images of the shard.",
        )
    mass = np.rint(rows.score.astype(np.float64) * UNIT).astype(np.int64)
    # teachers in rows: sums run along memory
    present = ((fused.teachers >> np.arange(teachers)[:, None]) & 1).astype(np.bool_)
    sees = coverage.T[:, rows.class_id]
    return Statistics(
        images=images,
        images_with_box=len(seen),
        class_images=np.bincount(np.unique(image * classes + rows.class_id) % classes, minlength=classes),
        scores=_histogram(rows, classes, BINS),
        mass=_sums(rows.class_id, mass, classes),
        members=np.stack([np.bincount(rows.class_id[part], minlength=classes) for part in present], axis=1),
        together=_pairs(present, present, np.ones_like(mass)),
        asked=_pairs(present, sees, np.ones_like(mass)),
        together_mass=_pairs(present, present, mass),
        asked_mass=_pairs(present, sees, mass),
        raw=np.stack([_histogram(part, classes, RAW_BINS) for part in tables]),
    )


def _histogram(rows: Detections, classes: int, bins: int) -> Ints:
    place = np.minimum((rows.score * np.float32(bins)).astype(np.int64), bins - 1)
    cells = rows.class_id.astype(np.int64) * bins + place
    return np.bincount(cells, minlength=classes * bins).reshape(classes, bins)


def _sums(class_id: NDArray[np.int32], values: Ints, classes: int) -> Ints:
    """(C,) sums of (N,) integers per class; `numpy.bincount` would sum floats."""
    total = np.zeros(classes, np.int64)
    np.add.at(total, class_id, values)
    return total


def _pairs(first: NDArray[np.bool_], second: NDArray[np.bool_], values: Ints) -> Ints:
    """(T, T) sums of (N,) integers over the boxes of the first (T, N) at s and the second at t."""
    rows = [values * part for part in first]
    return np.array([[part[other].sum() for other in second] for part in rows], np.int64)


def merge(first: Statistics, second: Statistics) -> Statistics:
    """The statistics of two sets of images that have none in common.

    Associative and commutative, exactly; `empty` changes nothing.

    Raises:
        UserError: They differ in the number of classes or teachers.
    """
    shapes = [(one.num_classes, one.num_teachers) for one in (first, second)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"statistics of {shapes[0][0]} classes and {shapes[0][1]} teachers cannot be merged with those "
            f"of {shapes[1][0]} and {shapes[1][1]}",
            "Merge the shards of one composition.",
        )
    return Statistics(
        **{field.name: getattr(first, field.name) + getattr(second, field.name) for field in fields(first)}
    )


def to_dict(statistics: Statistics) -> dict[str, Any]:
    """JSON form, exact: arrays as their shape, the places that are not zero, and the numbers there."""
    result: dict[str, Any] = {}
    for field in fields(statistics):
        value = getattr(statistics, field.name)
        if isinstance(value, np.ndarray):
            flat = value.reshape(-1)
            places = np.flatnonzero(flat)
            result[field.name] = {
                "shape": list(value.shape),
                "at": places.tolist(),
                "value": flat[places].tolist(),
            }
        else:
            result[field.name] = int(value)
    return result


def from_dict(document: Mapping[str, Any]) -> Statistics:
    """The inverse of `to_dict`.

    Raises:
        UserError: A field is missing or has another form.
    """
    values: dict[str, Any] = {}
    for field in fields(Statistics):
        try:
            stored = document[field.name]
            if isinstance(stored, Mapping):
                flat = np.zeros(int(np.prod(stored["shape"], dtype=np.int64)), np.int64)
                flat[np.asarray(stored["at"], np.int64)] = np.asarray(stored["value"], np.int64)
                values[field.name] = flat.reshape(stored["shape"])
            else:
                values[field.name] = int(stored)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"statistics: field {field.name!r} cannot be read ({error})", "Make them again."
            ) from error
    return Statistics(**values)
