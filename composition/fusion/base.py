"""What every fuser shares: the protocol, its result, and checked input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError

MAX_TEACHERS = 63  # bits of an int64 without its sign


@dataclass(frozen=True, slots=True)
class Fused:
    """N fused boxes with their provenance, sorted like every detections table.

    Attributes:
        detections: The fused boxes in the union classes.
        teachers: (N,) int64 bit mask of the teachers with a box in it; bit t is
            the t-th table given to the fuser.
        scores: (N, T) float32, each teacher's best score in it; NaN where the
            teacher is silent.
    """

    detections: Detections
    teachers: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.detections)


class Fuser(Protocol):
    """One way of fusing; a small value."""

    @property
    def name(self) -> str:
        """Its name in recipes."""

    def fuse(self, tables: Sequence[Detections]) -> Fused:
        """Fuses within every image and class.

        Args:
            tables: One table per teacher, class ids in the union classes, in the
                order of the label space's teachers; a silent teacher gives an
                empty table.

        Returns:
            The fused boxes. The result for an image depends on no other image.

        Raises:
            UserError: No table, more than `MAX_TEACHERS`, or a row that is not a
                finite box with area and a score in [0, 1].
        """


def fuser(name: str, settings: Mapping[str, Any] | None = None) -> Fuser:
    """Makes a fuser from its name and settings, as a recipe gives them.

    Raises:
        UserError: An unknown name or setting, or a value out of range.
    """
    from composition.fusion.nms import Nms
    from composition.fusion.wbf import Wbf

    kinds: dict[str, type[Nms] | type[Wbf]] = {"nms": Nms, "wbf": Wbf}
    if name not in kinds:
        raise UserError(f"there is no fuser {name!r}", f"Use one of: {', '.join(kinds)}.")
    kind = kinds[name]
    known = [field.name for field in fields(kind)]
    for key in settings or {}:
        if key not in known:
            raise UserError(f"fuser {name!r} has no setting {key!r}", f"Its settings: {', '.join(known)}.")
    return kind(**(settings or {}))


def check_iou(iou: float, who: str) -> None:
    """Raises UserError unless 0 <= iou <= 1."""
    if not 0 <= iou <= 1:
        raise UserError(f"{who}: iou {iou} is not in [0, 1]", "Use a number from 0 to 1, for example 0.5.")


@dataclass(frozen=True, slots=True)
class Pool:
    """The rows of all teachers, grouped by (image, class), best first in a group.

    Attributes:
        detections: N rows.
        boxes: (N, 4) float64, the same boxes, to compute with.
        teacher: (N,) int64, position of the table that a row comes from.
        rank: (N,) float64, what the order in a group goes by.
        starts: (G,) first row of every group.
        sizes: (G,) rows of every group, at least 1.
        num_teachers: T.
    """

    detections: Detections
    boxes: NDArray[np.float64]
    teacher: NDArray[np.int64]
    rank: NDArray[np.float64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    num_teachers: int


def pool(
    tables: Sequence[Detections], weights: NDArray[np.float64] | None = None, skip_below: float = 0.0
) -> Pool:
    """Checks, pools and groups the teachers' rows.

    Args:
        tables: One per teacher.
        weights: (T,) factors of the scores for the order; None = all 1.
        skip_below: Rows with a score below it are left out.
    """
    check(tables)
    teacher = np.repeat(np.arange(len(tables)), [len(part) for part in tables])
    rows = table.concatenate(tables)
    if skip_below > 0:
        kept = rows.score.astype(np.float64) >= skip_below
        rows, teacher = rows[kept], teacher[kept]
    rank = rows.score.astype(np.float64)
    if weights is not None:
        rank = rank * weights[teacher]
    x1, y1, x2, y2 = rows.boxes.T
    # box and teacher break ties, so that the result depends on nothing but the rows
    order = np.lexsort((teacher, y2, x2, y1, x1, -rank, rows.class_id, rows.image_id))
    rows, teacher, rank = rows[order], teacher[order], rank[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (np.diff(rows.image_id) != 0) | (np.diff(rows.class_id) != 0)
    starts = np.flatnonzero(first).astype(np.int64)
    return Pool(
        detections=rows,
        boxes=rows.boxes.astype(np.float64),
        teacher=teacher.astype(np.int64),
        rank=rank,
        starts=starts,
        sizes=np.diff(np.append(starts, len(rows))),
        num_teachers=len(tables),
    )


def check(tables: Sequence[Detections]) -> None:
    """Rejects at the border what no fuser can give a meaning to."""
    if not tables:
        raise UserError("there are no detections to fuse", "A composition needs at least one teacher.")
    if len(tables) > MAX_TEACHERS:
        raise UserError(
            f"{len(tables)} teachers are more than can be fused at once", f"Use at most {MAX_TEACHERS}."
        )
    for teacher, part in enumerate(tables):
        boxes = part.boxes
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(part.score)
        area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        unit = (part.score >= 0) & (part.score <= 1)
        broken = np.flatnonzero(~(finite & area & unit))
        if len(broken):
            row = int(broken[0])
            raise UserError(
                f"teacher {teacher + 1} of {len(tables)}, row {row} (image {part.image_id[row]}): "
                f"box {boxes[row].tolist()} with score {part.score[row]} cannot be fused",
                "Boxes must be finite and have an area, scores must lie in [0, 1].",
            )


def collect(pooled: Pool, cluster: NDArray[np.int64], fused: Detections) -> Fused:
    """Adds the provenance to fused boxes and sorts them.

    Args:
        pooled: The rows.
        cluster: (N,) index of the fused box that each row went into.
        fused: M boxes, in the order that ``cluster`` counts.
    """
    count, teachers = len(fused), pooled.num_teachers
    best = np.full(count * teachers, -np.inf, np.float32)
    np.maximum.at(best, cluster * teachers + pooled.teacher, pooled.detections.score)
    scores = best.reshape(count, teachers)
    spoken = np.isfinite(scores)
    mask = (spoken.astype(np.int64) << np.arange(teachers, dtype=np.int64)).sum(axis=1, dtype=np.int64)
    order = table.order(fused)
    return Fused(fused[order], mask[order], np.where(spoken, scores, np.float32(np.nan))[order])
