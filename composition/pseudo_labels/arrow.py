"""Pseudo-labels and fused boxes as Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from composition import detections as table
from composition.errors import UserError
from composition.fusion import Fused
from composition.pseudo_labels.table import PseudoLabels


def schema(num_teachers: int) -> pa.Schema:
    """The Parquet schema of pseudo-labels of so many teachers."""
    return pa.schema(
        [
            ("image_id", pa.int64()),
            ("x1", pa.float32()),
            ("y1", pa.float32()),
            ("x2", pa.float32()),
            ("y2", pa.float32()),
            ("class_id", pa.int32()),
            ("weight", pa.float32()),
            ("box_weight", pa.float32()),
            ("kind", pa.int8()),
            ("teachers", pa.int64()),
            ("scores", pa.list_(pa.float32(), num_teachers)),
        ]
    )


def named_schema(teachers: Sequence[str]) -> pa.Schema:
    """`schema` with the teachers' names in its metadata, bit 0 first; see `teacher_names`."""
    names = json.dumps(list(teachers), ensure_ascii=False)
    return schema(len(teachers)).with_metadata({"teachers": names})


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
    layout = named_schema(teachers)
    columns = [
        labels.image_id,
        *(np.ascontiguousarray(labels.boxes[:, i]) for i in range(4)),
        labels.class_id,
        labels.weight,
        labels.box_weight,
        labels.kind,
        labels.teachers,
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, layout, strict=False)]
    return pa.Table.from_arrays([*arrays, _scores_column(labels.scores)], schema=layout)


def from_arrow(table: pa.Table) -> PseudoLabels:
    """The inverse of `to_arrow`."""
    column = {name: table.column(name).to_numpy() for name in table.column_names if name != "scores"}
    return PseudoLabels(
        image_id=column["image_id"].astype(np.int64),
        boxes=np.stack([column[name] for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float32),
        class_id=column["class_id"].astype(np.int32),
        weight=column["weight"].astype(np.float32),
        box_weight=column["box_weight"].astype(np.float32),
        kind=column["kind"].astype(np.int8),
        teachers=column["teachers"].astype(np.int64),
        scores=_scores(table),
    )


def teacher_names(table: pa.Table) -> tuple[str, ...]:
    """The teachers of a table that `to_arrow` made, bit 0 first."""
    return tuple(json.loads((table.schema.metadata or {}).get(b"teachers", b"[]")))


def fused_to_arrow(fused: Fused) -> pa.Table:
    """Fused boxes as an Arrow table: the columns of detections, the mask, the scores."""
    rows = table.to_arrow(fused.detections)
    rows = rows.append_column("teachers", pa.array(fused.teachers, pa.int64()))
    return rows.append_column("scores", _scores_column(fused.scores))


def fused_from_arrow(rows: pa.Table) -> Fused:
    """The inverse of `fused_to_arrow`."""
    return Fused(
        table.from_arrow(rows.select(table.schema().names)),
        rows.column("teachers").to_numpy().astype(np.int64),
        _scores(rows),
    )


def _scores_column(scores: NDArray[np.float32]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(scores).reshape(-1), type=pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, scores.shape[1])


def _scores(rows: Any) -> NDArray[np.float32]:
    count = rows.schema.field("scores").type.list_size
    flat = rows.column("scores").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(rows), count)
