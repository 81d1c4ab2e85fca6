"""COCO files are checked before they are trusted."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from composition.coco import check_coco
from composition.errors import UserError

GOOD: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}, {"id": 2, "file_name": "b.jpg"}],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 0, "name": "dog"}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 1,
         "segmentation": {"counts": "...", "size": [10, 10]}},
        {"image_id": 2, "category_id": 0, "bbox": [0, 0, 2.5, 2]},
    ],
}  # fmt: skip


def test_missing_fields_are_filled_in() -> None:
    before = copy.deepcopy(GOOD)
    checked = check_coco(GOOD, "x.json")
    assert checked["annotations"] == [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "area": 9.5, "iscrowd": 1},
        {"id": 6, "image_id": 2, "category_id": 0, "bbox": [0.0, 0.0, 2.5, 2.0], "area": 5.0, "iscrowd": 0},
    ]
    assert checked["categories"] == GOOD["categories"]
    assert before == GOOD


def test_unlabeled_files() -> None:
    bare = {"images": GOOD["images"]}
    assert check_coco(bare, "x.json", labels=False) == {**bare, "annotations": [], "categories": []}
    with pytest.raises(UserError, match=r"x\.json has no 'categories'.*unlabeled"):
        check_coco(bare, "x.json")
    with pytest.raises(UserError, match="has no 'annotations'"):
        check_coco({**bare, "categories": GOOD["categories"]}, "x.json")


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (["images"], {}, "'images' is missing or not a list"),
        (["images"], [], "'images' is empty"),
        (["images", 0], 7, r"images\[0\] is not an object"),
        (["images", 0, "id"], "1", r"images\[0\]: 'id' is '1'"),
        (["images", 0, "id"], True, "not a whole number"),
        (["images", 1, "id"], 1, r"images\[1\]: image id 1 appears twice"),
        (["images", 0, "file_name"], None, "'file_name' is None"),
        (["images", 0, "width"], 0, "'width' is 0"),
        (["categories"], [], "'categories' is empty"),
        (["categories", 1, "id"], 3, "category id 3 appears twice"),
        (["categories", 1, "name"], "cat", "category name 'cat' appears twice"),
        (["categories", 1, "name"], "", "'name' is ''"),
        (["annotations"], "x", "'annotations' is missing or not a list"),
        (["annotations", 1, "id"], 5, r"annotations\[1\]: annotation id 5 appears twice"),
        (["annotations", 1, "image_id"], 9, r"annotations\[1\] names image id 9, which is not in 'images'"),
        (["annotations", 1, "category_id"], 9, r"annotations\[1\] names category id 9"),
        (["annotations", 1, "category_id"], None, "'category_id' is None"),
        (["annotations", 1, "bbox"], [0, 0, 1], "not \\[x, y, width, height\\]"),
        (["annotations", 1, "bbox"], [0, 0, 1, float("nan")], "not \\[x, y, width, height\\]"),
        (["annotations", 1, "bbox"], [0, 0, -1, 1], "negative size"),
        (["annotations", 1, "area"], "big", "'area' is 'big'"),
        (["annotations", 1, "iscrowd"], 2, "'iscrowd' is 2"),
    ],
)
def test_errors_name_the_place(path: list[Any], value: Any, text: str) -> None:
    broken = copy.deepcopy(GOOD)
    *parents, last = path
    place: Any = broken
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(UserError, match=text) as caught:
        check_coco(broken, "labels/x.json")
    assert caught.value.problem.startswith("labels/x.json")
    assert caught.value.way_out


def test_not_an_object() -> None:
    document: Any = json.loads("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        check_coco(document, "x.json")


@pytest.mark.parametrize("name", ["coco", "cards", "bccd", "fruits"])
def test_real_files(data_dir: Path, name: str) -> None:
    dataset = json.loads((data_dir / name / "val.json").read_text())
    assert len(check_coco(dataset, "val.json")["annotations"]) == len(dataset["annotations"])
    unlabeled = json.loads((data_dir / name / "unlabeled.json").read_text())
    assert check_coco(unlabeled, "unlabeled.json", labels=False)["images"] == unlabeled["images"]
