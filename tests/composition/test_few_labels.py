"""Who is believed about what, when people and detectors label the same images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from composition.coco import check_coco
from composition.errors import UserError
from composition.few_labels import combine, iou

CLASSES = ("cat", "dog", "bird")


def _coco(
    images: dict[int, list[tuple[Any, ...]]], categories: tuple[str, ...] = CLASSES, **extra: Any
) -> dict[str, Any]:
    """Image id to (class, box[, more keys]); ids of categories from 10, of annotations counted."""
    ids = {name: 10 + place for place, name in enumerate(categories)}
    rows = [
        {"image_id": image, "category_id": ids[row[0]], "bbox": row[1], **(row[2] if len(row) > 2 else {})}
        for image, found in images.items()
        for row in found
    ]
    document = {
        "images": [
            {
                "id": image,
                "file_name": f"{image}.jpg",
                "width": 100,
                "height": 80,
                **extra.get(str(image), {}),
            }
            for image in images
        ],
        "annotations": rows,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    return check_coco(document, "test")


def _labels(document: dict[str, Any], image: int) -> list[tuple[str, list[float], int]]:
    names = {category["id"]: category["name"] for category in document["categories"]}
    return [
        (names[row["category_id"]], row["bbox"], row["iscrowd"])
        for row in document["annotations"]
        if row["image_id"] == image
    ]


A, B, C = [0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 20.0, 20.0], [70.0, 10.0, 20.0, 20.0]


def test_people_are_believed_about_what_they_cover_and_detectors_about_the_rest() -> None:
    human = _coco({5: [("cat", B)]}, ("cat",))
    pool = _coco(
        {
            1: [
                ("cat", A, {"score": 0.6}),
                ("cat", C, {"iscrowd": 1, "score": 0.3}),
                ("dog", C, {"score": 0.7, "box_weight": 0.5}),
            ],
            2: [("cat", A, {"score": 0.6})],
        }
    )
    document, counts = combine(human, pool, CLASSES, {"cat": "cat"}, {5: 1}, repeat=4)
    assert _labels(document, 1) == [("dog", C, 0), ("cat", B, 0)]
    assert _labels(document, 2) == [("cat", A, 0)]
    assert [image.get("repeat", 1) for image in document["images"]] == [4, 1]
    assert not any("unspoken" in image for image in document["images"])
    weights = [(row.get("score"), row.get("box_weight")) for row in document["annotations"]]
    assert weights == [(0.7, 0.5), (None, None), (0.6, None)]
    assert (counts.replaced, counts.pseudo_boxes, counts.human_boxes, counts.conflicts) == (2, 2, 1, 0)


def test_an_object_that_a_person_calls_otherwise_is_no_pseudo_label_any_more() -> None:
    human = _coco({5: [("cat", A)]}, ("cat",))
    pool = _coco({1: [("dog", [0.0, 0.0, 20.0, 19.0], {"score": 0.9})]})
    document, counts = combine(human, pool, CLASSES, {"cat": "cat"}, {5: 1})
    assert _labels(document, 1) == [("dog", [0.0, 0.0, 20.0, 19.0], 1), ("cat", A, 0)]
    assert counts.conflicts == 1


def test_boxes_of_classes_that_are_not_covered_are_not_read() -> None:
    human = _coco({5: [("cat", A), ("dog", B)]})
    document, _ = combine(human, _coco({1: []}), CLASSES, {"cat": "cat"}, {5: 1})
    assert _labels(document, 1) == [("cat", A, 0)]


def test_what_nobody_looked_for_is_unspoken() -> None:
    human = _coco({5: [("kitten", A)], 6: []}, ("kitten",), **{"6": {"unspoken": [10]}})
    alone, counts = combine(human, None, CLASSES, {"kitten": "cat"}, {})
    assert [image.get("unspoken") for image in alone["images"]] == [[2, 3], [1, 2, 3]]
    assert counts.unspoken == 5
    # a pool that knows dogs only, and not even these on its second image
    pool = _coco({1: [("dog", B)], 2: []}, ("dog",), **{"2": {"unspoken": [10]}})
    mixed, _ = combine(human, pool, CLASSES, {"kitten": "cat"}, {5: 1, 6: 2})
    assert [image.get("unspoken") for image in mixed["images"]] == [[3], [1, 2, 3]]
    assert _labels(mixed, 1) == [("dog", B, 0), ("cat", A, 0)]


def test_pictures_of_people_that_are_not_in_the_pool_follow_it() -> None:
    human = _coco({1: [("cat", A)]}, ("cat",))
    document, counts = combine(human, _coco({1: [("dog", B)]}), CLASSES, {"cat": "cat"}, {})
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert _labels(document, 1) == [("dog", B, 0)]
    assert _labels(document, 2) == [("cat", A, 0)]
    assert (counts.images, counts.human_images) == (2, 1)


def test_a_picture_of_two_sizes_is_an_error() -> None:
    human = _coco({1: [("cat", A)]}, ("cat",), **{"1": {"width": 80, "height": 100}})
    with pytest.raises(UserError, match="80 x 100 pixels in the labels, but 100 x 80"):
        combine(human, _coco({1: []}), CLASSES, {"cat": "cat"}, {1: 1})


def test_labels_must_cover_something() -> None:
    with pytest.raises(UserError, match="cover no class"):
        combine(_coco({1: []}), None, CLASSES, {}, {})


def test_iou_of_coco_boxes() -> None:
    found = iou([A, [10.0, 0.0, 20.0, 20.0]], [A, B])
    assert np.allclose(found, [[1, 0], [1 / 3, 0]])
    assert iou([], [A]).shape == (0, 1)
