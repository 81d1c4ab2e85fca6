"""Our metrics against pycocotools run by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from composition.evaluation import evaluate

SUMMARY = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100"]


def _noisy(dataset: dict[str, Any], seed: int) -> tuple[Detections, list[str]]:
    """Labels moved and rescored, some lost, some invented; class ids in category order."""
    random = np.random.default_rng(seed)
    position = {category["id"]: index for index, category in enumerate(dataset["categories"])}
    kept = [row for row in dataset["annotations"] if random.uniform() < 0.8]
    boxes = np.array([row["bbox"] for row in kept])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    boxes += random.normal(0, 0.08, boxes.shape) * np.tile(boxes[:, 2:], 2)
    boxes[:, 2:] = boxes[:, :2] + np.maximum(boxes[:, 2:], 1)
    classes = np.array([position[row["category_id"]] for row in kept])
    wrong = random.uniform(size=len(kept)) < 0.15
    classes[wrong] = random.integers(0, len(position), wrong.sum())
    images = [row["image_id"] for row in kept]
    found = detections.make(images, boxes, random.uniform(0.05, 1, len(kept)), classes)
    return found, [category["name"] for category in dataset["categories"]]


def _by_hand(
    dataset: dict[str, Any], found: Detections, tmp_path: Path, category_ids: list[int] | None = None
) -> dict[str, float]:
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    ids = [category["id"] for category in dataset["categories"]]
    rows = [
        {
            "image_id": int(image),
            "category_id": ids[class_id],
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "score": float(score),
        }
        for image, (x1, y1, x2, y2), class_id, score in zip(
            found.image_id, found.boxes, found.class_id, found.score, strict=True
        )
    ]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    truth = COCO(str(tmp_path / "truth.json"))
    run = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
    if category_ids:
        run.params.catIds = category_ids
    run.evaluate()
    run.accumulate()
    run.summarize()
    return dict(zip(SUMMARY, run.stats * 100, strict=False))


@pytest.mark.parametrize(("name", "seed"), [("coco", 0), ("bccd", 1), ("fruits", 2)])
def test_agrees_with_pycocotools(data_dir: Path, tmp_path: Path, name: str, seed: int) -> None:
    dataset = json.loads((data_dir / name / "val.json").read_text())
    found, classes = _noisy(dataset, seed)
    expected = _by_hand(dataset, found, tmp_path)
    measured = evaluate(found, dataset, classes).to_dict()
    for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100"):
        if expected[key] < 0:
            assert measured[key] is None
        else:
            assert measured[key] == pytest.approx(expected[key], abs=1e-9)
    assert measured["images"] == len(dataset["images"])
    assert measured["boxes"] == sum(not row["iscrowd"] for row in dataset["annotations"])


def test_restricted_to_some_classes(data_dir: Path, tmp_path: Path) -> None:
    dataset = json.loads((data_dir / "coco" / "val.json").read_text())
    found, classes = _noisy(dataset, 3)
    ids = {category["name"]: category["id"] for category in dataset["categories"]}
    expected = _by_hand(dataset, found, tmp_path, [ids["airplane"], ids["chair"]])
    measured = evaluate(found, dataset, classes, restrict_to=["chair", "aeroplane"])
    assert pytest.approx(expected["AP"], abs=1e-9) == measured.AP
    assert list(measured.per_class) == ["airplane", "chair"]
    whole = evaluate(found, dataset, classes)
    assert whole.per_class["chair"] == measured.per_class["chair"]
    averages = [one.AP for one in whole.per_class.values() if one.AP is not None]
    assert pytest.approx(np.mean(averages)) == whole.AP
    assert whole.classes == len(averages)


DATASET: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    # ids not ascending: pycocotools sorts them
    "categories": [{"id": 9, "name": "tv"}, {"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 0, "image_id": 1, "category_id": 9, "bbox": [0, 0, 50, 50]},  # id 0: pycocotools' trap
        {"id": 1, "image_id": 2, "category_id": 4, "bbox": [0, 0, 200, 100]},
        {"id": 2, "image_id": 2, "category_id": 4, "bbox": [300, 0, 200, 100], "iscrowd": 1},
    ],
}
PERFECT = detections.make([1, 2], [[0, 0, 50, 50], [0, 0, 200, 100]], [0.9, 0.8], [1, 2])
CLASSES = ["zebra", "tvmonitor", "cat"]


def test_small_case() -> None:
    metrics = evaluate(PERFECT, DATASET, CLASSES)
    assert metrics.to_dict() == {
        "AP": pytest.approx(100),
        "AP50": pytest.approx(100),
        "AP75": pytest.approx(100),
        "AP_small": None,
        "AP_medium": pytest.approx(100),
        "AP_large": pytest.approx(100),
        "AR100": pytest.approx(100),
        "per_class": {
            "cat": {"AP": pytest.approx(100), "AP50": pytest.approx(100), "boxes": 1},
            "dog": {"AP": None, "AP50": None, "boxes": 0},
            "tv": {"AP": pytest.approx(100), "AP50": pytest.approx(100), "boxes": 1},
        },
        "images": 2,
        "boxes": 2,
        "classes": 2,
    }
    json.dumps(metrics.to_dict())


def test_missed_classes_count_and_foreign_classes_do_not() -> None:
    assert pytest.approx(50) == evaluate(PERFECT[:1], DATASET, CLASSES).AP
    foreign = detections.make([1], [[0, 0, 50, 50]], [0.99], [0])
    joined = detections.sort(detections.concatenate([PERFECT, foreign]))
    assert evaluate(joined, DATASET, CLASSES) == evaluate(PERFECT, DATASET, CLASSES)


def test_nothing_found() -> None:
    metrics = evaluate(detections.empty(), DATASET, CLASSES)
    assert metrics.AP == 0
    assert metrics.AR100 == 0


def test_no_boxes_at_all() -> None:
    metrics = evaluate(PERFECT, {**DATASET, "annotations": []}, CLASSES)
    assert metrics.AP is None
    assert metrics.boxes == 0


@pytest.mark.parametrize("limit", [1, 5])
def test_max_detections(limit: int) -> None:
    wrong = detections.make([1] * 5, [[100 + i, 0, 150 + i, 50] for i in range(5)], [0.95] * 5, [1] * 5)
    joined = detections.sort(detections.concatenate([PERFECT, wrong]))
    assert evaluate(joined, DATASET, CLASSES, limit).per_class["tv"].AP == 0
    assert (evaluate(joined, DATASET, CLASSES, 6).per_class["tv"].AP or 0) > 0


def test_input_is_not_changed_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    before = copy.deepcopy(DATASET)
    evaluate(PERFECT, DATASET, CLASSES)
    assert before == DATASET
    assert capsys.readouterr() == ("", "")


def test_errors() -> None:
    with pytest.raises(UserError, match=r"val\.json has no category 'catt' \(did you mean 'cat'"):
        evaluate(PERFECT, DATASET, CLASSES, restrict_to=["catt"], source="val.json")
    with pytest.raises(UserError, match="no category is left"):
        evaluate(PERFECT, DATASET, CLASSES, restrict_to=[])
    with pytest.raises(UserError, match=r"image id 3, which is not in val\.json"):
        evaluate(detections.make([3], [[0, 0, 1, 1]], [0.5], [0]), DATASET, CLASSES, source="val.json")
    broken = {**DATASET, "annotations": [{"image_id": 1, "category_id": 77, "bbox": [0, 0, 1, 1]}]}
    with pytest.raises(UserError, match=r"val\.json: annotations\[0\] names category id 77"):
        evaluate(PERFECT, broken, CLASSES, source="val.json")
