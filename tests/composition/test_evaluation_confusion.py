"""The confusion matrix, case by case."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from composition import detections
from composition.evaluation import confusion

CLASSES = ["cat", "dog"]
A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def dataset(*objects: tuple[list[int], int, int]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": (3, 7)[label],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "iscrowd": crowd,
            }
            for number, (box, label, crowd) in enumerate(objects, 1)
        ],
    }


CAT_AND_DOG = ((A, 0, 0), (B, 1, 0))


@pytest.mark.parametrize(
    ("objects", "found", "expected"),
    [
        (CAT_AND_DOG, [(A, 0.9, 0), (B, 0.9, 1)], [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
        # taken for the other class
        (CAT_AND_DOG, [(A, 0.9, 1), (B, 0.9, 1)], [[0, 1, 0], [0, 1, 0], [0, 0, 0]]),
        # missed, and something where nothing is
        (CAT_AND_DOG, [(FAR, 0.9, 1), (B, 0.9, 1)], [[0, 0, 1], [0, 1, 0], [0, 1, 0]]),
        # too low a score
        (CAT_AND_DOG, [(A, 0.29, 0), (B, 0.3, 1)], [[0, 0, 1], [0, 1, 0], [0, 0, 0]]),
        # a second box on one object is a detection of nothing
        (CAT_AND_DOG, [(A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 1)], [[1, 0, 0], [0, 1, 0], [1, 0, 0]]),
        # two objects on one place: each detection takes that of its own class
        (((A, 0, 0), (A, 1, 0)), [(A, 0.9, 1), (A, 0.8, 0)], [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
        # a crowd swallows what lies in it, of whatever class, and is no object that could be missed
        (
            ((A, 0, 0), ([0, 0, 60, 60], 1, 1)),
            [(A, 0.9, 0), (FAR, 0.9, 0)],
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
        ),
        ((), [(A, 0.9, 0)], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        (CAT_AND_DOG, [], [[0, 0, 1], [0, 0, 1], [0, 0, 0]]),
    ],
)
def test_cases(objects: Any, found: Any, expected: list[list[int]]) -> None:
    boxes, scores, labels = zip(*found, strict=True) if found else ([], [], [])
    table = detections.make([1] * len(found), np.array(boxes).reshape(-1, 4), scores, labels)
    result = confusion(detections.sort(table), dataset(*objects), CLASSES)
    assert result.counts.tolist() == expected
    json.dumps(result.to_dict())


def test_other_names_and_a_part_of_the_categories() -> None:
    table = detections.make([1, 1, 1], [A, B, FAR], [0.9, 0.8, 0.7], [1, 2, 0])
    result = confusion(table, dataset(*CAT_AND_DOG), ["zebra", "cat", "dog"])
    assert result.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    only = confusion(table, dataset(*CAT_AND_DOG), ["zebra", "cat", "dog"], restrict_to=["dog"])
    assert only.classes == ("dog",)
    assert only.counts.tolist() == [[1, 0], [0, 0]]


def test_the_worst_mistakes_come_first() -> None:
    table = detections.make([1, 1], [A, B], [0.9, 0.9], [1, 0])
    result = confusion(table, dataset(*CAT_AND_DOG), CLASSES)
    assert result.worst(1) == [("cat", "dog", 1)]
    assert confusion(table[:0], dataset(*CAT_AND_DOG), CLASSES).worst(5) == []
