"""The table that a student is trained on.

Contract (docs/design.md, "Pseudo-labels"): union class, box, weight, kind, the
teachers that agreed and their scores, so that every box can say where it comes
from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from composition.errors import UserError
from composition.fusion import Fused

POSITIVE: Final = 0
IGNORE: Final = 1


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """N labels, sorted by image and then by falling weight.

    Attributes:
        image_id: (N,) int64, ids of the image index.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the original image.
        class_id: (N,) int32, index into the union classes.
        weight: (N,) float32 in [0, 1]: the fused score. Whether the student
            uses it or takes all positives as certain is the student's setting.
        kind: (N,) int8: `POSITIVE`, or `IGNORE` for a region without a loss.
        teachers: (N,) int64 bit mask of the teachers that agreed.
        scores: (N, T) float32 best score per teacher, NaN where silent.
    """

    image_id: NDArray[np.int64]
    boxes: NDArray[np.float32]
    class_id: NDArray[np.int32]
    weight: NDArray[np.float32]
    kind: NDArray[np.int8]
    teachers: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weight)

    def __getitem__(self, rows: Any) -> PseudoLabels:
        """Selects rows with a slice, a boolean mask or an integer array."""
        return PseudoLabels(
            self.image_id[rows],
            self.boxes[rows],
            self.class_id[rows],
            self.weight[rows],
            self.kind[rows],
            self.teachers[rows],
            self.scores[rows],
        )


def from_fused(fused: Fused, kind: NDArray[np.int8] | None = None) -> PseudoLabels:
    """Makes labels of fused boxes.

    Args:
        fused: The fused boxes.
        kind: (N,) `POSITIVE` or `IGNORE` per box; None = all positive.

    Returns:
        One label per fused box, in the same order, weighted by the fused score.
    """
    rows = fused.detections
    return PseudoLabels(
        image_id=rows.image_id,
        boxes=rows.boxes,
        class_id=rows.class_id,
        weight=rows.score,
        kind=np.full(len(rows), POSITIVE, np.int8) if kind is None else np.asarray(kind, np.int8),
        teachers=fused.teachers,
        scores=fused.scores,
    )


def concatenate(parts: Sequence[PseudoLabels]) -> PseudoLabels:
    """All rows of tables of the same teachers, in the order given (shards).

    Raises:
        UserError: There is no table, or they differ in the number of teachers.
    """
    widths = {part.scores.shape[1] for part in parts}
    if len(widths) != 1:
        raise UserError(
            "there are no pseudo-labels to join"
            if not parts
            else f"pseudo-labels of {sorted(widths)} teachers cannot be joined",
            "Join the shards of one composition.",
        )
    return PseudoLabels(
        np.concatenate([part.image_id for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.class_id for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.teachers for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def schema(num_teachers: int) -> pa.Schema:
    """The Parquet schema for so many teachers."""
    return pa.schema(
        [
            ("image_id", pa.int64()),
            ("x1", pa.float32()),
            ("y1", pa.float32()),
            ("x2", pa.float32()),
            ("y2", pa.float32()),
            ("class_id", pa.int32()),
            ("weight", pa.float32()),
            ("kind", pa.int8()),
            ("teachers", pa.int64()),
            ("scores", pa.list_(pa.float32(), num_teachers)),
        ]
    )


def to_arrow(labels: PseudoLabels, teachers: Sequence[str]) -> pa.Table:
    """The table in the Parquet schema of the contract.

    Args:
        labels: The labels.
        teachers: (T,) names, bit 0 first; kept in the schema's metadata under
            ``teachers`` (read them with `teacher_names`).

    Raises:
        UserError: The number of names is not that of the score columns.
    """
    count = labels.scores.shape[1]
    if len(teachers) != count:
        raise UserError(f"pseudo-labels of {count} teachers were given {len(teachers)} names")
    layout = schema(count)
    columns = [
        labels.image_id,
        *(np.ascontiguousarray(labels.boxes[:, i]) for i in range(4)),
        labels.class_id,
        labels.weight,
        labels.kind,
        labels.teachers,
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, layout, strict=False)]
    flat = pa.array(np.ascontiguousarray(labels.scores).reshape(-1), type=pa.float32())
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, count))
    metadata = {"teachers": json.dumps(list(teachers), ensure_ascii=False)}
    return pa.Table.from_arrays(arrays, schema=layout.with_metadata(metadata))


def from_arrow(table: pa.Table) -> PseudoLabels:
    """The inverse of `to_arrow`."""
    column = {name: table.column(name).to_numpy() for name in table.column_names if name != "scores"}
    count = table.schema.field("scores").type.list_size
    scores = table.column("scores").combine_chunks()
    flat = scores.flatten().to_numpy(zero_copy_only=False)
    return PseudoLabels(
        image_id=column["image_id"].astype(np.int64),
        boxes=np.stack([column[name] for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float32),
        class_id=column["class_id"].astype(np.int32),
        weight=column["weight"].astype(np.float32),
        kind=column["kind"].astype(np.int8),
        teachers=column["teachers"].astype(np.int64),
        scores=np.asarray(flat, np.float32).reshape(len(table), count),
    )


def teacher_names(table: pa.Table) -> tuple[str, ...]:
    """The teachers of a table that `to_arrow` made, bit 0 first."""
    return tuple(json.loads((table.schema.metadata or {}).get(b"teachers", b"[]")))


def to_coco(
    labels: PseudoLabels,
    images: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The labels as a COCO dictionary that any trainer reads.

    Args:
        labels: The labels.
        images: Rows with ``id``, ``file_name``, ``width`` and ``height``; images
            without a label stay in the file (they are background).
        classes: Union classes; category ids count from 1 in their order.
        info: Goes under ``info``; give it nothing that changes between runs.

    Returns:
        ``info``, ``images`` (by id), ``categories`` and ``annotations`` (ids
        from 1 in the order of the table; ``score`` is the weight; regions to
        ignore have ``iscrowd: 1``; pixels rounded to 4 digits). Equal labels
        give equal dictionaries.

    Raises:
        UserError: A label names an image that is not in ``images``.
    """
    known = {image["id"] for image in images}
    unknown = sorted(set(np.unique(labels.image_id).tolist()) - known)
    if unknown:
        raise UserError(f"pseudo-labels name image id {unknown[0]}, which is not in the image index")
    corners = labels.boxes.astype(np.float64)
    size = corners[:, 2:] - corners[:, :2]
    boxes = np.round(np.concatenate([corners[:, :2], size], axis=1), 4).tolist()
    columns = zip(
        labels.image_id.tolist(),
        labels.class_id.tolist(),
        boxes,
        np.round(size.prod(axis=1), 4).tolist(),
        (labels.kind == IGNORE).astype(int).tolist(),
        np.round(labels.weight.astype(np.float64), 6).tolist(),
        strict=True,
    )
    return {
        "info": dict(info or {}),
        "images": [
            {key: image[key] for key in ("id", "file_name", "width", "height")}
            for image in sorted(images, key=lambda image: int(image["id"]))
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes, 1)],
        "annotations": [
            {
                "id": index,
                "image_id": image_id,
                "category_id": class_id + 1,
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
                "score": score,
            }
            for index, (image_id, class_id, box, area, crowd, score) in enumerate(columns, 1)
        ],
    }
