"""Imperfect labels on their way from the file through augmentation into a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from composition.errors import UserError
from model_zoo.bundle import sha256_of
from model_zoo.student_settings import StudentSettings
from model_zoo.training import TrainingProgress, train
from model_zoo.training_data import TrainingSet
from model_zoo.training_records import Record, imperfect, read_records, usable
from model_zoo.training_runner import precision
from tests.model_zoo.squares import CLASSES, category_id, doubt, dump, write_squares

QUICK = StudentSettings(architecture="yolox_pico", image_size=64, epochs=2, batch_size=4)
SURE = {"weights": "hard", "ignore": False, "class_mask": False}


def squares(folder: Path, count: int = 6) -> Path:
    return write_squares(folder / "data", count=count)


def records_of(annotations: Path) -> tuple[Record, ...]:
    return read_records(annotations, annotations.parent, CLASSES)


def edit(annotations: Path, **changes: Any) -> Path:
    """Changes keys of the first annotation."""
    document = json.loads(annotations.read_text())
    document["annotations"][0] |= changes
    return dump(annotations, document)


# ---- reading ---------------------------------------------------------------------------------------


def test_what_the_file_says_reaches_the_records(tmp_path: Path) -> None:
    records = records_of(doubt(squares(tmp_path)))
    assert [record.class_weights.tolist() for record in records] == [
        [], pytest.approx([0.2]), pytest.approx([0.4]), [], pytest.approx([0.6]), pytest.approx([0.8]),
    ]  # fmt: skip
    assert [record.box_weights.tolist() for record in records] == [[], [0.0], [0.5], [], [1.0], [0.0]]
    assert [record.unspoken.tolist() for record in records] == [[1], [], [], [], [1], []]
    assert imperfect(records)


def test_human_labels_are_certain(tmp_path: Path) -> None:
    annotations = edit(squares(tmp_path), iscrowd=0)
    records = records_of(annotations)
    assert all((record.class_weights == 1).all() and (record.box_weights == 1).all() for record in records)
    assert not any(len(record.unspoken) for record in records)
    assert not imperfect(records)
    assert imperfect(records_of(edit(annotations, iscrowd=1)))
    assert imperfect(records_of(edit(annotations, iscrowd=0, score=0.9)))
    assert not imperfect(records_of(edit(annotations, score=1.0, box_weight=1)))
    assert imperfect(records_of(edit(annotations, box_weight=0)))


def test_an_unspoken_class_alone_is_imperfect(tmp_path: Path) -> None:
    annotations = edit(squares(tmp_path), iscrowd=0)
    document = json.loads(annotations.read_text())
    document["images"][0]["unspoken"] = [category_id("red"), category_id("blue")]
    records = records_of(dump(annotations, document))
    assert records[0].unspoken.tolist() == [0, 2]
    assert imperfect(records)
    both = read_records(annotations, annotations.parent, ("blue", "red"), "background")
    assert both[0].unspoken.tolist() == [0, 1]
    only = read_records(annotations, annotations.parent, ("blue",), "background")
    assert only[0].unspoken.tolist() == [0]


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ({}, (True, True, True)),
        ({"weights": "hard"}, (False, True, True)),
        ({"ignore": False}, (True, False, True)),
        ({"class_mask": False}, (True, True, False)),
        (SURE, (False, False, False)),
    ],
)
def test_each_part_can_be_switched_off(
    setting: dict[str, Any], kept: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    records = usable(records_of(doubt(squares(tmp_path))), QUICK.model_copy(update=setting))
    weights = np.concatenate([record.class_weights for record in records])
    boxes = np.concatenate([record.box_weights for record in records])
    found = (
        bool((weights != 1).any() and (boxes != 1).any()),
        any(record.ignore.any() for record in records),
        any(len(record.unspoken) for record in records),
    )
    assert found == kept
    assert imperfect(records) == any(kept)
    assert sum((~record.ignore).sum() for record in records) == 3
    for record in records:
        lengths = (record.boxes, record.labels, record.ignore, record.class_weights, record.box_weights)
        assert len({len(column) for column in lengths}) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("score", 1.5), ("score", -0.1), ("score", "high"), ("score", float("nan")), ("score", None),
     ("score", True), ("box_weight", 2), ("box_weight", [])],
)  # fmt: skip
def test_broken_weights_name_annotation_and_field(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"annotation 1: '{key}' is .*, not a number from 0 to 1"):
        records_of(edit(squares(tmp_path), **{key: value}))


@pytest.mark.parametrize("value", ["green", [99], ["green"], [[7]], None, {"a": 1}])
def test_broken_class_masks_name_image_and_field(value: Any, tmp_path: Path) -> None:
    annotations = squares(tmp_path)
    document = json.loads(annotations.read_text())
    document["images"][0]["unspoken"] = value
    with pytest.raises(UserError, match=r"image 0: 'unspoken' is .*, not a list of category ids") as error:
        records_of(dump(annotations, document))
    assert "7" in error.value.way_out


# ---- augmentation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["none", "light", "standard"])
def test_weights_and_classes_stay_with_their_boxes(augmentation: str, tmp_path: Path) -> None:
    """Every box that comes out still lies on its square, known by its colour and its own weight."""
    annotations = edit(squares(tmp_path, count=10), iscrowd=0)
    document = json.loads(annotations.read_text())
    for number, box in enumerate(document["annotations"], 1):
        box |= {"score": number / 10, "box_weight": number / 20}
    records = records_of(dump(annotations, document))
    label_of = {round(float(r.class_weights[0]), 3): int(r.labels[0]) for r in records if len(r.boxes)}
    settings = QUICK.model_copy(update={"augmentation": augmentation, "epochs": 30})
    samples = TrainingSet(records, settings, seed=3)
    seen = 0
    for place in range(30):
        sample = samples[0, place, place % 10]
        truth = sample["data_samples"].gt_instances
        torch.testing.assert_close(truth.box_weights, truth.class_weights / 2)
        for box, label, weight in zip(truth.bboxes.tensor, truth.labels, truth.class_weights, strict=True):
            assert label_of[round(float(weight), 3)] == int(label)
            x, y = ((box[:2] + box[2:]) / 2).long().tolist()
            blue_green_red = sample["inputs"][:, y, x]
            assert 2 - int(blue_green_red.argmax()) == int(label)
            seen += 1
    assert seen >= 15


@pytest.mark.parametrize("augmentation", ["none", "light", "standard"])
def test_an_unspoken_class_covers_its_image_and_in_a_mosaic_its_tile(
    augmentation: str, tmp_path: Path
) -> None:
    """Dark images are those that nobody searched for reds."""
    size = 64
    images, annotations = [], []
    for number in range(6):
        dark = number % 2 == 0
        Image.fromarray(np.full((size, size, 3), 10 if dark else 230, np.uint8)).save(
            tmp_path / f"{number}.png"
        )
        image = {"id": number, "file_name": f"{number}.png", "width": size, "height": size}
        images.append(image | ({"unspoken": [category_id("red")]} if dark else {}))
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": category_id("blue"),
                "bbox": [20, 20, 20, 20],
            }
        )
    categories = [{"id": category_id(name), "name": name} for name in CLASSES]
    document = {"images": images, "annotations": annotations, "categories": categories}
    records = read_records(dump(tmp_path / "train.json", document), tmp_path, CLASSES)
    samples = TrainingSet(records, QUICK.model_copy(update={"augmentation": augmentation, "epochs": 30}), 0)
    counts: set[int] = set()
    for place in range(24):
        sample = samples[0, place, place % 6]
        regions = sample["data_samples"].ignored_instances
        assert regions.unspoken.all()
        assert (regions.labels == 0).all()
        counts.add(len(regions))
        covered = torch.zeros(size, size, dtype=torch.bool)
        inner = covered.clone()
        for x1, y1, x2, y2 in regions.bboxes.tensor.tolist():
            covered[max(int(y1) - 1, 0) : int(y2) + 2, max(int(x1) - 1, 0) : int(x2) + 2] = True
            inner[int(y1) + 2 : int(y2) - 1, int(x1) + 2 : int(x2) - 1] = True
        brightness = sample["inputs"].float().mean(0)
        assert not (brightness[~covered] < 60).any()
        assert not (brightness[inner] > 150).any()
    assert counts >= ({0, 1, 2} if augmentation == "standard" else {0, 1})


# ---- training --------------------------------------------------------------------------------------


def run(folder: Path, annotations: Path, name: str, **changes: Any) -> Path:
    """Trains, and returns the weights."""
    arguments: dict[str, Any] = {
        "settings": QUICK,
        "vocabulary": CLASSES,
        "annotations": annotations,
        "image_root": annotations.parent,
        "work_dir": folder / name / "work",
        "output": folder / name / "bundle",
        "name": "squares",
        "seed": 0,
        "threads": 1,
    }
    train(**{**arguments, **changes})
    return folder / name / "bundle" / "model.safetensors"


@pytest.mark.parametrize("architecture", ["yolox_pico", "atss_pico", "rtmdet_pico", "retinanet_effnet_lite0"])
def test_every_student_trains_on_imperfect_labels_and_gives_the_same_bytes_again(
    architecture: str, tmp_path: Path
) -> None:
    annotations = doubt(squares(tmp_path))
    settings = QUICK.model_copy(
        update={"architecture": architecture, "augmentation": "standard", "epochs": 1}
    )
    one, other, sure = (
        run(tmp_path, annotations, name, settings=settings.model_copy(update=changes))
        for name, changes in (("one", {}), ("other", {}), ("sure", SURE))
    )
    assert sha256_of(one) == sha256_of(other)
    assert sha256_of(one) != sha256_of(sure)


def test_weights_of_one_train_as_no_weights(tmp_path: Path) -> None:
    plain = edit(squares(tmp_path), iscrowd=0)
    first = run(tmp_path, plain, "plain")
    document = json.loads(plain.read_text())
    for box in document["annotations"]:
        box |= {"score": 1.0, "box_weight": 1.0}
    assert sha256_of(run(tmp_path, dump(plain, document), "weighted")) == sha256_of(first)


def test_a_budget_ends_a_training_early_and_for_good(tmp_path: Path) -> None:
    annotations = squares(tmp_path)
    settings = QUICK.model_copy(update={"budget_minutes": 1e-6, "epochs": 50})
    seen: list[TrainingProgress] = []
    weights = run(tmp_path, annotations, "short", settings=settings, on_progress=seen.append)
    assert len(seen) == 1
    manifest = json.loads((weights.parent / "manifest.json").read_text())
    assert manifest["provenance"]["training"]["steps"] == 1
    assert manifest["provenance"]["training"]["planned_steps"] == 100
    first = sha256_of(weights)
    for path in weights.parent.iterdir():
        path.unlink()
    weights.parent.rmdir()  # killed between training and writing: nothing more is trained
    assert sha256_of(run(tmp_path, annotations, "short", settings=settings, on_progress=seen.append)) == first
    assert len(seen) == 1


def test_a_large_budget_changes_nothing(tmp_path: Path) -> None:
    annotations = squares(tmp_path)
    free, bound = (
        run(tmp_path, annotations, name, settings=QUICK.model_copy(update={"budget_minutes": minutes}))
        for name, minutes in (("free", None), ("bound", 1000.0))
    )
    assert sha256_of(free) == sha256_of(bound)


def test_a_cpu_computes_in_full_precision() -> None:
    assert precision(QUICK, "cpu") == {"type": "OptimWrapper"}
