"""Pseudo-labels: the table, its Parquet form and its COCO form."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO

from composition import detections, pseudo_labels
from composition.errors import UserError
from composition.fusion import Fused, Nms
from composition.pseudo_labels import IGNORE, POSITIVE, PseudoLabels

FUSED = Fused(
    detections.make(
        [3, 3, 7], [[1, 2, 4, 8], [0.5, 0, 1.25, 2], [0, 0, 10, 10]], [0.9, 0.25, 0.5], [1, 0, 1]
    ),
    np.array([3, 2, 1]),
    np.array([[0.9, 0.4], [np.nan, 0.25], [0.5, np.nan]], np.float32),
)
LABELS = pseudo_labels.from_fused(
    FUSED, np.array([POSITIVE, IGNORE, POSITIVE], np.int8), np.array([1, 0.5, 1], np.float32)
)
IMAGES = [
    {"id": 7, "file_name": "b.jpg", "width": 20, "height": 10, "sha256": "not copied"},
    {"id": 3, "file_name": "a.jpg", "width": 20, "height": 10},
    {"id": 5, "file_name": "empty.jpg", "width": 20, "height": 10},
]


def _same(one: PseudoLabels, other: PseudoLabels) -> None:
    for column in PseudoLabels.__slots__:
        expected, found = getattr(one, column), getattr(other, column)
        assert expected.dtype == found.dtype, column
        np.testing.assert_array_equal(expected, found)


def test_from_fused() -> None:
    np.testing.assert_array_equal(LABELS.weight, np.array([0.9, 0.25, 0.5], np.float32))
    np.testing.assert_array_equal(LABELS.kind, [0, 1, 0])
    np.testing.assert_array_equal(LABELS.teachers, [3, 2, 1])
    np.testing.assert_array_equal(pseudo_labels.from_fused(FUSED).kind, [0, 0, 0])
    np.testing.assert_array_equal(pseudo_labels.from_fused(FUSED).box_weight, [1, 1, 1])


def test_labels_of_one_kind_as_detections() -> None:
    assert pseudo_labels.as_detections(LABELS).image_id.tolist() == [3, 7]
    assert pseudo_labels.as_detections(LABELS, IGNORE).score.tolist() == [0.25]


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(0, 0)])
def test_parquet_round_trip(tmp_path: Path, rows: slice) -> None:
    path = tmp_path / "pseudo_labels.parquet"
    pq.write_table(pseudo_labels.to_arrow(LABELS[rows], ["first", "zweiter/ü"]), path)
    table = pq.read_table(path)
    _same(pseudo_labels.from_arrow(table), LABELS[rows])
    assert pseudo_labels.teacher_names(table) == ("first", "zweiter/ü")


def test_parquet_read_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "pseudo_labels.parquet"
    pq.write_table(pseudo_labels.to_arrow(LABELS, ["a", "b"]), path, row_group_size=1)
    _same(pseudo_labels.from_arrow(pq.read_table(path)), LABELS)
    _same(pseudo_labels.from_arrow(pq.read_table(path).slice(1)), LABELS[1:])


def test_shards_join() -> None:
    _same(pseudo_labels.concatenate([LABELS[:1], LABELS[1:]]), LABELS)


def test_joining_and_naming_need_the_same_teachers() -> None:
    alone = pseudo_labels.from_fused(Nms().fuse([FUSED.detections]))
    with pytest.raises(UserError, match=r"\[1, 2\] teachers"):
        pseudo_labels.concatenate([LABELS, alone])
    with pytest.raises(UserError, match="no pseudo-labels"):
        pseudo_labels.concatenate([])
    with pytest.raises(UserError, match="given 1 names"):
        pseudo_labels.to_arrow(LABELS, ["a"])


def test_to_coco() -> None:
    assert pseudo_labels.to_coco(LABELS, IMAGES, ["cat", "dog"], {"description": "x"}) == {
        "info": {"description": "x"},
        "images": [
            {"id": 3, "file_name": "a.jpg", "width": 20, "height": 10},
            {"id": 5, "file_name": "empty.jpg", "width": 20, "height": 10},
            {"id": 7, "file_name": "b.jpg", "width": 20, "height": 10},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 3,
                "category_id": 2,
                "bbox": [1.0, 2.0, 3.0, 6.0],
                "area": 18.0,
                "iscrowd": 0,
                "score": 0.9,
                "box_weight": 1.0,
            },
            {
                "id": 2,
                "image_id": 3,
                "category_id": 1,
                "bbox": [0.5, 0.0, 0.75, 2.0],
                "area": 1.5,
                "iscrowd": 1,
                "score": 0.25,
                "box_weight": 0.5,
            },
            {
                "id": 3,
                "image_id": 7,
                "category_id": 2,
                "bbox": [0.0, 0.0, 10.0, 10.0],
                "area": 100.0,
                "iscrowd": 0,
                "score": 0.5,
                "box_weight": 1.0,
            },
        ],
    }


def test_coco_form_is_read_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(pseudo_labels.to_coco(LABELS, IMAGES, ["cat", "dog"])))
    coco = COCO(str(path))
    capsys.readouterr()
    assert coco.getAnnIds(imgIds=[3], iscrowd=False) == [1]
    assert coco.getImgIds() == [3, 5, 7]


def test_to_coco_needs_the_images() -> None:
    with pytest.raises(UserError, match="image id 7"):
        pseudo_labels.to_coco(LABELS, IMAGES[1:], ["cat", "dog"])


@pytest.mark.parametrize("cuts", [[], [1], [0, 1, 1, 2], [3]])
def test_the_coco_text_of_shards_is_that_of_the_whole(cuts: list[int]) -> None:
    edges = [0, *cuts, len(LABELS)]
    shards = [LABELS[low:high] for low, high in pairwise(edges)]
    images = sorted(IMAGES, key=lambda image: image["id"])
    text = "".join(pseudo_labels.coco_text(images, ["cat", "dog"], shards, {"description": "x"}))
    assert text == json.dumps(pseudo_labels.to_coco(LABELS, IMAGES, ["cat", "dog"], {"description": "x"}))


def test_fused_boxes_round_trip(tmp_path: Path) -> None:
    pq.write_table(pseudo_labels.fused_to_arrow(FUSED), tmp_path / "fused.parquet")
    back = pseudo_labels.fused_from_arrow(pq.read_table(tmp_path / "fused.parquet"))
    _same(pseudo_labels.from_fused(back), pseudo_labels.from_fused(FUSED))
    assert back.scores.dtype == np.float32


def test_the_named_schema_is_that_of_the_table() -> None:
    table = pseudo_labels.to_arrow(LABELS, ["a", "b"])
    assert table.schema.equals(pseudo_labels.named_schema(["a", "b"]), check_metadata=True)
    assert isinstance(table, pa.Table)
