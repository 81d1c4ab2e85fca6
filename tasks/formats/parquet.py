"""Two Parquet tables for data frames and SQL: ``labels.parquet`` (a row a box) and ``images.parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.formats.labelled import LabelledImage, LabelledSet

LABELS, IMAGES = "labels.parquet", "images.parquet"
_GROUP = 1024
_LABELS = pa.schema(
    [
        ("image", pa.string()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
        ("class", pa.string()),
        ("class_id", pa.int32()),
        ("score", pa.float64()),
        ("ignore", pa.bool_()),
    ]
)
_IMAGES = pa.schema([("image", pa.string()), ("width", pa.int32()), ("height", pa.int32())])


def write(labelled: LabelledSet, folder: Path) -> None:
    """Writes both tables; the class list and the folder of the images are in their schema's metadata."""
    facts = {"classes": json.dumps(labelled.classes, ensure_ascii=False), "root": str(labelled.root)}
    layout = _LABELS.with_metadata(facts)
    with (
        pq.ParquetWriter(folder / LABELS, layout) as labels,
        pq.ParquetWriter(folder / IMAGES, _IMAGES.with_metadata(facts)) as images,
    ):
        for group in _groups(iter(labelled)):
            images.write_table(_image_table(group).cast(images.schema))
            labels.write_table(_label_table(group, labelled.classes).cast(layout))


def _groups(images: Iterator[LabelledImage]) -> Iterator[list[LabelledImage]]:
    while group := list(islice(images, _GROUP)):
        yield group


def _image_table(images: list[LabelledImage]) -> pa.Table:
    columns = zip(*((image.name, image.width, image.height) for image in images), strict=True)
    return pa.table([pa.array(list(column)) for column in columns], names=_IMAGES.names)


def _label_table(images: list[LabelledImage], classes: tuple[str, ...]) -> pa.Table:
    ids = np.concatenate([image.class_id for image in images])
    boxes = np.concatenate([image.boxes for image in images])
    score = np.concatenate([image.score for image in images])
    columns = [
        np.repeat(np.array([image.name for image in images], object), [len(image) for image in images]),
        *(np.ascontiguousarray(boxes[:, side]) for side in range(4)),
        np.array(classes, object)[ids],
        ids,
        pa.array(score, mask=np.isnan(score)),
        np.concatenate([image.ignore for image in images]),
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, _LABELS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_LABELS)
