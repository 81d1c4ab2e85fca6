"""The table of detections: one columnar value type and plain functions on it.

Contract (docs/design.md, "Detections"): boxes are absolute pixels of the
original image after EXIF orientation, scores lie in [0, 1], rows are sorted by
image and then by falling score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@cache
def schema() -> pa.Schema:
    """The Parquet schema of the contract."""
    # 150 MB that a machine which only predicts does without
    import pyarrow as pa

    return pa.schema(
        [
            ("image_id", pa.int64()),
            ("x1", pa.float32()),
            ("y1", pa.float32()),
            ("x2", pa.float32()),
            ("y2", pa.float32()),
            ("score", pa.float32()),
            ("class_id", pa.int32()),
            ("spread", pa.float32()),
        ]
    )


@dataclass(frozen=True, slots=True)
class Detections:
    """N detections of one teacher (or of one ensemble) on any number of images.

    Attributes:
        image_id: (N,) int64; a position in the batch when it comes straight
            from a detector, an id of the image index afterwards.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the original image.
        score: (N,) float32 in [0, 1].
        class_id: (N,) int32, index into the vocabulary of whoever made them.
        spread: (N,) float32, instability of the box under test-time
            augmentation as a fraction of its size; NaN where not measured.
    """

    image_id: NDArray[np.int64]
    boxes: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int32]
    spread: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: Any) -> Detections:
        """Selects rows with a slice, a boolean mask or an integer array."""
        return Detections(
            self.image_id[rows],
            self.boxes[rows],
            self.score[rows],
            self.class_id[rows],
            self.spread[rows],
        )


def make(image_id: Any, boxes: Any, score: Any, class_id: Any, spread: Any | None = None) -> Detections:
    """Builds a table from anything array-like, converting the dtypes.

    Args:
        image_id: (N,) integers.
        boxes: (N, 4) x1 y1 x2 y2; an empty list is accepted as (0, 4).
        score: (N,) floats.
        class_id: (N,) integers.
        spread: (N,) floats, or None for "not measured".

    Returns:
        The table; values are not checked, see `validate`.
    """
    scores = np.asarray(score, np.float32).reshape(-1)
    return Detections(
        image_id=np.asarray(image_id, np.int64).reshape(-1),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        score=scores,
        class_id=np.asarray(class_id, np.int32).reshape(-1),
        spread=(
            np.full(len(scores), np.nan, np.float32)
            if spread is None
            else np.asarray(spread, np.float32).reshape(-1)
        ),
    )


def empty() -> Detections:
    """A table without rows."""
    return make([], [], [], [])


def concatenate(tables: Iterable[Detections]) -> Detections:
    """All rows of all tables, in the order given."""
    parts = list(tables)
    if not parts:
        return empty()
    return Detections(
        np.concatenate([part.image_id for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.class_id for part in parts]),
        np.concatenate([part.spread for part in parts]),
    )


def order(detections: Detections) -> NDArray[np.intp]:
    """The row numbers that `sort` puts the table into, for columns kept beside it."""
    x1, y1, x2, y2 = detections.boxes.T
    rows: NDArray[np.intp] = np.lexsort(
        (y2, x2, y1, x1, detections.class_id, -detections.score, detections.image_id)
    )
    return rows


def sort(detections: Detections) -> Detections:
    """Rows by image, then by falling score; ties by class and box.

    The tie-breakers make the order, and so the bytes written, independent of
    the order in which batches or teachers came in.
    """
    return detections[order(detections)]


def strongest(detections: Detections, most: int) -> Detections:
    """The rows with the best scores of every image, at most so many of each, sorted."""
    rows = sort(detections)
    starts = np.flatnonzero(np.diff(rows.image_id, prepend=-1))
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    return rows[place < most]


def with_image_ids(detections: Detections, ids: NDArray[np.int64]) -> Detections:
    """Turns positions in a batch into image ids: row i gets ``ids[image_id[i]]``."""
    return replace(detections, image_id=np.asarray(ids, np.int64)[detections.image_id])


def clip(detections: Detections, widths: NDArray[Any], heights: NDArray[Any]) -> Detections:
    """Clips boxes to their images and drops those without area.

    Args:
        detections: Rows whose ``image_id`` is an index into the two arrays.
        widths: (M,) image widths in pixels.
        heights: (M,) image heights in pixels.
    """
    width = np.asarray(widths, np.float32)[detections.image_id]
    height = np.asarray(heights, np.float32)[detections.image_id]
    limit = np.stack([width, height, width, height], axis=1)
    boxes = np.clip(detections.boxes, 0, limit).astype(np.float32)
    clipped = replace(detections, boxes=boxes)
    return clipped[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def validate(
    detections: Detections,
    sizes: Mapping[int, tuple[int, int]],
    num_classes: int,
    source: str,
) -> None:
    """Checks the contract before a table is written.

    Args:
        detections: The table.
        sizes: Image id to (width, height) in pixels.
        num_classes: Length of the vocabulary that class ids index.
        source: Who made the table, for the error text.

    Raises:
        UserError: Names the first offending row and rule.
    """
    if not len(detections):
        return
    unknown = sorted(set(np.unique(detections.image_id).tolist()) - set(sizes))
    if unknown:
        raise UserError(f"{source}: detections name image id {unknown[0]}, which is not in the image index")
    ids, inverse = np.unique(detections.image_id, return_inverse=True)
    limit = np.array([sizes[int(i)] for i in ids], np.float32)[inverse]
    x1, y1, x2, y2 = detections.boxes.T
    rules = {
        "a box that is not finite": ~np.isfinite(detections.boxes).all(axis=1),
        "a score that is not finite": ~np.isfinite(detections.score),
        "a score outside [0, 1]": ~((detections.score >= 0) & (detections.score <= 1)),
        "a box without area": ~((x2 > x1) & (y2 > y1)),
        "a box outside its image": ~((x1 >= 0) & (y1 >= 0) & (x2 <= limit[:, 0]) & (y2 <= limit[:, 1])),
        "a class id outside the vocabulary": (detections.class_id < 0) | (detections.class_id >= num_classes),
    }
    for rule, broken in rules.items():
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            raise UserError(
                f"{source}: {rule} in row {row} (image {detections.image_id[row]}, "
                f"box {detections.boxes[row].tolist()}, score {detections.score[row]}, "
                f"class {detections.class_id[row]})",
                "Detectors must return finite boxes inside the image and scores in [0, 1].",
            )


def to_arrow(detections: Detections) -> pa.Table:
    """The table in the Parquet schema of the contract (`schema`)."""
    import pyarrow as pa

    boxes = detections.boxes
    columns = [
        detections.image_id,
        *(np.ascontiguousarray(boxes[:, i]) for i in range(4)),
        detections.score,
        detections.class_id,
        detections.spread,
    ]
    return pa.Table.from_arrays(
        [pa.array(column, type=field.type) for column, field in zip(columns, schema(), strict=True)],
        schema=schema(),
    )


def from_arrow(table: pa.Table) -> Detections:
    """The inverse of `to_arrow`."""
    column = {name: table.column(name).to_numpy() for name in table.column_names}
    return make(
        column["image_id"],
        np.stack([column["x1"], column["y1"], column["x2"], column["y2"]], axis=1),
        column["score"],
        column["class_id"],
        column["spread"],
    )
