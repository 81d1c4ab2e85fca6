"""Real detectors reach the accuracy that was measured for them independently."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from composition import detections
from composition.aliases import shared_classes
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.images import read_rgb
from model_zoo.importing import import_teacher

TOLERANCE = 0.7
BATCH = 16


@dataclass(frozen=True)
class Photos:
    truth: COCO
    ids: list[int]
    images: list


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> Photos:
    document = json.loads((data_dir / "coco" / "val.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data_dir / "coco" / "val.json"))
    images = [read_rgb(data_dir / "coco" / "images" / row["file_name"]) for row in document["images"]]
    return Photos(truth, [row["id"] for row in document["images"]], images)


def average_precision(photos: Photos, table, vocabulary) -> tuple[float, int]:
    """AP in percent over the classes that the vocabulary shares with the photos, and their number."""
    categories = photos.truth.loadCats(photos.truth.getCatIds())
    shared = shared_classes(vocabulary, [category["name"] for category in categories])
    category_of = {class_id: categories[column]["id"] for class_id, column in shared.items()}
    results = [
        {
            "image_id": photos.ids[image],
            "category_id": category_of[class_id],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, (x1, y1, x2, y2), score, class_id in zip(
            table.image_id.tolist(),
            table.boxes.tolist(),
            table.score.tolist(),
            table.class_id.tolist(),
            strict=True,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(photos.truth, photos.truth.loadRes(results), "bbox")
        run.params.catIds = sorted(category_of.values())
        run.evaluate()
        run.accumulate()
        run.summarize()
    return 100 * float(run.stats[0]), len(category_of)


@pytest.mark.parametrize(
    ("model", "names", "classes", "reference"),
    [
        ("yolox_nano_coco/yolox_nano.onnx", "coco", 80, 33.1),
        ("nanodet_m_320_coco/nanodet_m_320.onnx", "coco", 80, 25.3),
        ("fastestdet_coco/FastestDet.onnx", "coco", 80, 16.5),
        ("yolo_fastest_1.1_xl_coco/yolo-fastest-1.1-xl.cfg", "coco", 80, 21.2),
        ("yolo_fastest_xl_voc/yolo-fastest-xl.cfg", "voc", 20, 19.9),
        ("mobilenetv2_yolov3_nano_voc/MobileNetV2-YOLOv3-Nano-voc.cfg", "voc", 20, 18.1),
    ],
)
def test_reference_ap(model, names, classes, reference, photos, data_dir, tmp_path):
    teachers = data_dir / "teachers"
    bundle = tmp_path / "bundle"
    import_teacher(teachers / model, classes=teachers / f"{names}.names", name="teacher", destination=bundle)
    detector = open_detector(bundle, InferenceSettings(score_floor=0.01))
    batches = [photos.images[start : start + BATCH] for start in range(0, len(photos.images), BATCH)]
    table = detections.concatenate(
        detections.with_image_ids(detector.predict(batch), list(range(index * BATCH, (index + 1) * BATCH)))
        for index, batch in enumerate(batches)
    )
    detections.validate(
        table,
        {index: (image.shape[1], image.shape[0]) for index, image in enumerate(photos.images)},
        len(detector.vocabulary),
        model,
    )
    ap, shared = average_precision(photos, table, detector.vocabulary)
    print(f"{model}: AP {ap:.2f} (reference {reference})")
    assert shared == classes
    assert abs(ap - reference) <= TOLERANCE
