"""What every fuser shares: the protocol, its result, and checked input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError

Number = TypeVar("Number", bound=np.generic)
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


def sorted_together(parts: Sequence[Fused]) -> Fused:
    """The boxes of parts that have no image in common, sorted."""
    if len(parts) == 1:
        return parts[0]
    rows = table.concatenate(part.detections for part in parts)
    order = table.order(rows)
    return Fused(
        rows[order],
        np.concatenate([part.teachers for part in parts])[order],
        np.concatenate([part.scores for part in parts])[order],
    )


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
    from composition.fusion.expert import Expert
    from composition.fusion.nms import Nms
    from composition.fusion.soft_nms import SoftNms
    from composition.fusion.wbf import Wbf

    kinds: dict[str, type[Expert] | type[Nms] | type[SoftNms] | type[Wbf]] = {
        "expert": Expert,
        "nms": Nms,
        "soft_nms": SoftNms,
        "wbf": Wbf,
    }
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
    """The rows of all teachers, grouped by (image, class), best rank first in a group.

    Attributes:
        source: The tables one after the other, each sorted by image.
        row: (N,) int64, the row of ``source`` at each place; rows left out by
            `pool` are missing. A column kept beside ``source`` comes into the
            order of the pool by ``column[row]``.
        image_id: (N,) int64, rising.
        class_id: (N,) int32, rising in an image.
        boxes: (N, 4) float64, to compute with.
        score: (N,) float32.
        teacher: (N,) int64, position of the table that a row comes from.
        rank: (N,) float64, what the order in a group goes by.
        starts: (G,) int64, first row of every group.
        sizes: (G,) int64, rows of every group, at least 1.
        num_teachers: T.
    """

    source: Detections
    row: NDArray[np.int64]
    image_id: NDArray[np.int64]
    class_id: NDArray[np.int32]
    boxes: NDArray[np.float64]
    score: NDArray[np.float32]
    teacher: NDArray[np.int64]
    rank: NDArray[np.float64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    num_teachers: int

    @property
    def detections(self) -> Detections:
        """The rows as a table, in the order of the pool."""
        return self.source[self.row]


def pool(
    tables: Sequence[Detections],
    weights: NDArray[np.float64] | None = None,
    skip_below: float = 0.0,
    rank: Sequence[NDArray[np.float64]] | None = None,
) -> Pool:
    """Checks, pools and groups the teachers' rows.

    In a group the rows go by falling rank; box and then teacher break ties, so
    that the result depends on nothing but the rows.

    Args:
        tables: One per teacher, quickest if sorted by image.
        weights: (T,) factors of the scores for the order; None = all 1.
        skip_below: Rows with a score below it are left out.
        rank: Per table (n,) float64, finite: what to order by instead of the
            weighted scores.

    Raises:
        UserError: See `check`.
    """
    from composition.fusion import sort_kernels as kernels

    if not tables or len(tables) > MAX_TEACHERS:
        check(tables)
    factors = np.ones(len(tables)) if weights is None else weights
    if rank is None:
        rank = [part.score * factor for part, factor in zip(tables, factors, strict=True)]
    order = [None if rising(part.image_id) else np.argsort(part.image_id, kind="stable") for part in tables]
    source = table.concatenate(
        part if rows is None else part[rows] for part, rows in zip(tables, order, strict=True)
    )
    ranks = np.concatenate(
        [part if rows is None else part[rows] for part, rows in zip(rank, order, strict=True)]
    ).astype(np.float64, copy=False)
    if kernels.first_broken(source.boxes, source.score, ranks) >= 0:
        check(tables)
        raise ValueError("a rank is not finite")
    total, offsets = len(source), np.cumsum([0, *map(len, tables)])
    row, keys, edges = _empty(total, np.int64), _empty(total, np.int64), _empty(total + 1, np.int64)
    images = kernels.by_image(
        source.image_id, source.class_id, source.score, ranks.astype(np.float32).view(np.int32),
        offsets, float(skip_below), row, edges, keys,
    )  # fmt: skip
    row = row[: edges[images]]
    kernels.sort(row, edges[: images + 1], keys, ranks, source.boxes)
    total = len(row)
    image_id, class_id, teacher = _empty(total, np.int64), _empty(total, np.int32), _empty(total, np.int64)
    boxes, score, sorted_rank = np.empty((total, 4)), _empty(total, np.float32), _empty(total, np.float64)
    kernels.gather(
        row, offsets, source.image_id, source.class_id, source.boxes, source.score, ranks,
        image_id, class_id, boxes, score, sorted_rank, teacher,
    )  # fmt: skip
    starts = np.flatnonzero(changes(image_id) | changes(class_id))
    return Pool(
        source=source,
        row=row,
        image_id=image_id,
        class_id=class_id,
        boxes=boxes,
        score=score,
        teacher=teacher,
        rank=sorted_rank,
        starts=starts,
        sizes=np.diff(starts, append=total),
        num_teachers=len(tables),
    )


def _empty(count: int, dtype: type[Number]) -> NDArray[Number]:
    return np.empty(count, dtype)


def changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether a value differs from the one before it; true for the first."""
    first = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first


def rising(values: NDArray[np.int64]) -> bool:
    """Whether the values never fall."""
    return bool((values[1:] >= values[:-1]).all())


def check(tables: Sequence[Detections]) -> None:
    """Rejects at the border what no fuser can give a meaning to.

    Raises:
        UserError: No table, more than `MAX_TEACHERS`, or a row that is not a
            finite box with area and a score in [0, 1]; names the row.
    """
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


def collect(pooled: Pool, members: NDArray[np.int64], fused: Detections) -> Fused:
    """Adds the provenance to fused boxes and sorts them.

    Args:
        pooled: The rows.
        members: (M, T) int64, row of each teacher in each fused box, -1 where
            it is silent.
        fused: M boxes whose image ids rise, as they do along clusters.
    """
    from composition.fusion import sort_kernels as kernels

    count, teachers = members.shape
    falling = -(fused.score + np.float32(0)).view(np.int32).astype(np.int64)  # as integers; -0 is 0
    rows = np.arange(count)
    kernels.sort(
        rows,
        np.append(np.flatnonzero(changes(fused.image_id)), count),
        (falling << 32) + (fused.class_id + np.int64(2**31)),
        fused.score.astype(np.float64),
        fused.boxes,
    )
    result = Detections(
        image_id=_empty(count, np.int64),
        boxes=np.empty((count, 4), np.float32),
        score=_empty(count, np.float32),
        class_id=_empty(count, np.int32),
        spread=_empty(count, np.float32),
    )
    mask, scores = _empty(count, np.int64), np.empty((count, teachers), np.float32)
    kernels.provenance(
        rows, members, pooled.score,
        fused.image_id, fused.boxes, fused.score, fused.class_id, fused.spread,
        result.image_id, result.boxes, result.score, result.class_id, result.spread, mask, scores,
    )  # fmt: skip
    return Fused(result, mask, scores)
