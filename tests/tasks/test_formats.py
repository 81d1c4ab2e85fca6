"""Exports read back: by pycocotools and supervision where those read the form, else by plain readers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import supervision as sv
import yaml
from PIL import Image
from pycocotools.coco import COCO

from composition.errors import UserError
from tasks.export_form import Form
from tasks.formats import EXPORTERS, ExportCounts, LabelledImage, LabelledSet, export
from tasks.formats.labelled import labelled_image

CLASSES = ("zebra", "étui à lunettes", "cup")
BOXES = [[1.25, 2.5, 20.75, 33.0], [0, 0, 64, 48], [10, 11, 30.125, 40.25]]


def _images() -> list[LabelledImage]:
    return [
        labelled_image("b.png", 64, 48, BOXES, [2, 0, 1], [0.9, 0.5, 0.25], [False, False, True], [1]),
        labelled_image("empty.png", 40, 30),
        labelled_image("person.png", 33, 57, [[3, 4, 5, 6]], [1]),
    ]


@pytest.fixture
def labelled(tmp_path: Path) -> LabelledSet:
    """Three images: with an ignore region and fractions, without a box, and with a label without a score."""
    root = tmp_path / "pool"
    root.mkdir()
    for image in _images():
        Image.new("RGB", (image.width, image.height), "navy").save(root / image.name)
    return LabelledSet("pool", CLASSES, root, lambda: iter(_images()))


def _read_by_supervision(dataset: sv.DetectionDataset) -> dict[str, sv.Detections]:
    return {Path(path).name: found for path, _, found in dataset}


def _assert_same_labels(
    found: dict[str, sv.Detections], classes: list[str], ignore: bool, atol: float
) -> None:
    assert set(found) == {image.name for image in _images()}
    for image in _images():
        kept = np.ones(len(image), bool) if ignore else ~image.ignore
        detections = found[image.name]
        names = [classes[class_id] for class_id in detections.class_id]
        assert names == [CLASSES[class_id] for class_id in image.class_id[kept]]
        np.testing.assert_allclose(detections.xyxy.reshape(-1, 4), image.boxes[kept], atol=atol)


def test_coco_keeps_everything(labelled: LabelledSet, tmp_path: Path) -> None:
    counts = export(labelled, "coco", tmp_path / "out")
    assert counts == ExportCounts(images=3, labels=3, ignore_regions=1, left_out=0)
    file = tmp_path / "out" / "annotations" / "instances_train.json"
    read = COCO(file)
    names = [category["name"] for category in read.dataset["categories"]]
    assert names == list(CLASSES)
    for original, image in zip(_images(), read.dataset["images"], strict=True):
        assert (image["file_name"], image["width"], image["height"]) == (
            original.name,
            original.width,
            original.height,
        )
        assert image.get("unspoken", []) == [class_id + 1 for class_id in original.unspoken]
        rows = read.imgToAnns[image["id"]]
        assert [row["category_id"] - 1 for row in rows] == original.class_id.tolist()
        assert [row["iscrowd"] for row in rows] == original.ignore.tolist()
        scores = [row.get("score", np.nan) for row in rows]
        np.testing.assert_array_equal(scores, original.score)
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(boxes, original.boxes)


def test_yolo_comes_back_without_ignore_regions(labelled: LabelledSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = export(labelled, "yolo", out)
    assert counts == ExportCounts(images=3, labels=3, ignore_regions=0, left_out=1)
    dataset = sv.DetectionDataset.from_yolo(
        str(out / "images" / "train"), str(out / "labels" / "train"), str(out / "data.yaml")
    )
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] == dict(enumerate(CLASSES))
    _assert_same_labels(_read_by_supervision(dataset), dataset.classes, ignore=False, atol=1e-3)
    assert (out / "labels" / "train" / "empty.txt").read_text() == ""


def test_yolo_can_carry_scores(labelled: LabelledSet, tmp_path: Path) -> None:
    export(labelled, "yolo-scores", tmp_path / "out", "none")
    labels = tmp_path / "out" / "labels" / "train"
    assert np.loadtxt(labels / "b.txt")[:, 5].tolist() == [0.9, 0.5]
    assert np.loadtxt(labels / "person.txt")[5] == 1, "a label of a person is certain"
    assert not (tmp_path / "out" / "images").exists()


def test_voc_comes_back_with_ignore_regions(labelled: LabelledSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = export(labelled, "voc", out, "copy")
    assert counts == ExportCounts(images=3, labels=3, ignore_regions=1, left_out=0)
    dataset = sv.DetectionDataset.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations"))
    _assert_same_labels(_read_by_supervision(dataset), dataset.classes, ignore=True, atol=0.006)
    tree = ElementTree.parse(out / "Annotations" / "b.xml")
    assert [item.text for item in tree.iter("difficult")] == ["0", "0", "1"]
    assert (out / "ImageSets" / "Main" / "train.txt").read_text() == "b\nempty\nperson\n"
    assert (out / "labels.txt").read_text().splitlines() == list(CLASSES)
    assert not (out / "JPEGImages" / "b.png").is_symlink()


def test_what_a_killed_export_left_behind_is_removed(labelled: LabelledSet, tmp_path: Path) -> None:
    leftover = tmp_path / ".out.4711.partial"
    leftover.mkdir()
    for form in ("coco", "yolo"):
        export(labelled, form, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "pool"}
    assert (tmp_path / "out" / "data.yaml").is_file()
    assert not (tmp_path / "out" / "annotations").exists()


def test_an_image_that_is_gone_cannot_be_copied(labelled: LabelledSet, tmp_path: Path) -> None:
    (labelled.root / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png is gone since it was labelled"):
        export(labelled, "coco", tmp_path / "out", "copy")
    assert not (tmp_path / "out").exists()


def test_parquet_comes_back_whole(labelled: LabelledSet, tmp_path: Path) -> None:
    export(labelled, "parquet", tmp_path / "out")
    boxes = pq.read_table(tmp_path / "out" / "labels.parquet")
    rows = boxes.to_pylist()
    originals = [(image, row) for image in _images() for row in range(len(image))]
    for (image, row), found in zip(originals, rows, strict=True):
        assert found["image"] == image.name
        assert [found[side] for side in ("x1", "y1", "x2", "y2")] == image.boxes[row].tolist()
        assert CLASSES[image.class_id[row]] == found["class"]
        assert found["ignore"] == image.ignore[row]
        assert found["score"] == (None if np.isnan(image.score[row]) else image.score[row])
    assert json.loads(boxes.schema.metadata[b"classes"]) == list(CLASSES)
    images = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert [(row["image"], row["width"], row["height"]) for row in images] == [
        (image.name, image.width, image.height) for image in _images()
    ]


def test_label_studio_tasks_name_what_the_interface_knows(labelled: LabelledSet, tmp_path: Path) -> None:
    export(labelled, "label-studio", tmp_path / "out")
    interface = ElementTree.parse(tmp_path / "out" / "interface.xml")
    assert [label.get("value") for label in interface.iter("Label")] == list(CLASSES)
    controls = {node.get("name"): node.get("toName") for node in interface.iter("RectangleLabels")}
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    for image, task in zip(_images(), tasks, strict=True):
        regions = task["predictions"][0]["result"]
        assert all(controls[region["from_name"]] == region["to_name"] for region in regions)
        boxes = np.array([_corners(region["value"]) for region in regions]).reshape(-1, 4)
        size = np.array([image.width, image.height] * 2)
        np.testing.assert_allclose(boxes * size / 100, image.boxes, atol=1e-5)
        assert ["meta" in region for region in regions] == image.ignore.tolist()


def test_cvat_keeps_scores_and_ignore_regions(labelled: LabelledSet, tmp_path: Path) -> None:
    export(labelled, "cvat", tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out" / "annotations.xml").getroot()
    assert [label.findtext("name") for label in root.iter("label")] == list(CLASSES)
    for image, found in zip(_images(), root.iter("image"), strict=True):
        assert (found.get("name"), found.get("width")) == (image.name, str(image.width))
        boxes = [[float(box.get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr")] for box in found]
        np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), image.boxes, atol=1e-4)
        assert [box.get("label") for box in found] == [CLASSES[c] for c in image.class_id]
        facts = [{one.get("name"): one.text for one in box} for box in found]
        assert [one["ignore"] == "true" for one in facts] == image.ignore.tolist()
        scores = [float(one.get("score") or "nan") for one in facts]
        np.testing.assert_allclose(scores, image.score, atol=1e-6)


def _corners(value: dict[str, Any]) -> list[float]:
    x, y = value["x"], value["y"]
    return [x, y, x + value["width"], y + value["height"]]


def test_every_format_has_an_exporter() -> None:
    assert list(EXPORTERS) == list(Form)


@pytest.mark.parametrize("form", EXPORTERS)
def test_an_export_is_repeatable_and_takes_the_place_of_an_earlier_one(
    form: str, labelled: LabelledSet, tmp_path: Path
) -> None:
    export(labelled, "coco", tmp_path / "out")
    export(labelled, form, tmp_path / "out")
    export(labelled, form, tmp_path / "again")
    contents = [_contents(tmp_path / name) for name in ("out", "again")]
    assert contents[0] == contents[1]
    assert {path.name for path in tmp_path.iterdir()} == {"pool", "out", "again"}, "nothing is left over"


def _contents(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_what_cannot_be_told_apart_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    twins = [labelled_image("a/x.jpg", 9, 9), labelled_image("a/x.png", 9, 9)]
    with pytest.raises(UserError, match=r"a/x\.jpg and a/x\.png would share one label file"):
        export(_set_of(twins, tmp_path), "yolo", tmp_path / "out", "none")
    with pytest.raises(UserError, match="lies outside"):
        export(_set_of([labelled_image("../x.jpg", 9, 9)], tmp_path), "coco", tmp_path / "out", "none")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_person_is_not_replaced(labelled: LabelledSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not made by an export"):
        export(labelled, "coco", labelled.root)
    assert len(list(labelled.root.iterdir())) == 3


def _set_of(images: list[LabelledImage], root: Path) -> LabelledSet:
    def read() -> Iterator[LabelledImage]:
        return iter(images)

    return LabelledSet("pool", CLASSES, root, read)
