"""Exports of `detcompose label`, read by the importers of other annotation tools.

The tools' dependencies collide with our pins, so each lives in a virtual
environment of its own::

    python -m venv /tmp/datumaro && /tmp/datumaro/bin/pip install datumaro
    python -m venv /tmp/fiftyone && /tmp/fiftyone/bin/pip install fiftyone
    python -m venv /tmp/label-studio && /tmp/label-studio/bin/pip install label-studio-sdk
    python -m benchmarks.other_tools --datumaro /tmp/datumaro --fiftyone /tmp/fiftyone \
        --label-studio /tmp/label-studio --out benchmarks/results/other_tools.json

What an importer finds is compared with what was exported: images, and boxes by
class and place (and score, where the importer keeps it).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tasks.evaluate import load_dataset
from tasks.formats import LabelledImage, LabelledSet, export
from tasks.formats.labelled import labelled_image

IMAGES = 20
SEED = 0

DATUMARO = """
import json, sys
import importlib.metadata
import datumaro
from datumaro.components.dataset import Dataset
rows, images = [], 0
dataset = Dataset.import_from(sys.argv[1], sys.argv[2])
names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
for item in dataset:
    images += 1
    for one in item.annotations:
        if one.type != datumaro.AnnotationType.bbox:
            continue
        x, y, w, h = one.get_bbox()
        score = one.attributes.get("score")
        rows.append([item.id.split("/")[-1], names[one.label], x, y, x + w, y + h, score])
version = importlib.metadata.version("datumaro")
print("RESULT" + json.dumps({"version": version, "images": images, "rows": rows}))
"""

FIFTYONE = """
import json, sys
import importlib.metadata
import fiftyone.utils.coco as coco
import fiftyone.utils.voc as voc
import fiftyone.utils.yolo as yolo
folder, kind = sys.argv[1:3]
if kind == "coco":
    importer = coco.COCODetectionDatasetImporter(
        dataset_dir=folder, data_path=folder + "/images",
        labels_path=folder + "/annotations/instances_train.json")
elif kind == "yolo":
    importer = yolo.YOLOv5DatasetImporter(dataset_dir=folder, yaml_path=folder + "/data.yaml", split="train")
else:
    importer = voc.VOCDetectionDatasetImporter(
        dataset_dir=folder, data_path=folder + "/JPEGImages", labels_path=folder + "/Annotations")
rows, images = [], 0
with importer:
    for sample in importer:
        images += 1
        path, metadata, found = sample[0], sample[1], sample[2]
        if isinstance(found, dict):
            found = found.get("detections")
        for one in (found.detections if found else []):
            x, y, w, h = one.bounding_box
            score = one.confidence
            size = [metadata.width, metadata.height] if metadata else None
            rows.append([path.split("/")[-1].rsplit(".", 1)[0], one.label, x, y, x + w, y + h, score, size])
version = importlib.metadata.version("fiftyone")
print("RESULT" + json.dumps({"version": version, "images": images, "rows": rows}))
"""

LABEL_STUDIO = """
import json, sys
import importlib.metadata
from label_studio_sdk.label_interface import LabelInterface
folder = sys.argv[1]
interface = LabelInterface(open(folder + "/interface.xml").read())
interface.validate()
rows, images = [], 0
for task in json.load(open(folder + "/tasks.json")):
    images += 1
    # with predictions in it, validate_task() of 2.1.2 stumbles over its own arguments
    assert interface.validate_task({"data": task["data"]}), "task"
    for prediction in task["predictions"]:
        wrong = interface.validate_prediction(prediction, return_errors=True)
        assert not wrong, wrong
        for one in prediction["result"]:
            v = one["value"]
            w, h = one["original_width"] / 100, one["original_height"] / 100
            name = task["data"]["image"].split("/")[-1].rsplit(".", 1)[0]
            corners = [v["x"] * w, v["y"] * h, (v["x"] + v["width"]) * w, (v["y"] + v["height"]) * h]
            rows.append([name, v["rectanglelabels"][0], *corners, one.get("score")])
print("RESULT" + json.dumps(
    {"version": importlib.metadata.version("label-studio-sdk"), "images": images, "rows": rows}))
"""


def make_set(data: Path) -> LabelledSet:
    """Twenty real images, their boxes with made-up scores, every ninth an ignore region."""
    dataset = load_dataset(data / "coco" / "val.json", limit=IMAGES)
    categories = sorted(dataset.coco["categories"], key=lambda category: category["id"])
    position = {category["id"]: number for number, category in enumerate(categories)}
    random = np.random.default_rng(SEED)
    images = []
    for row in sorted(dataset.coco["images"], key=lambda image: image["file_name"]):
        found = [one for one in dataset.coco["annotations"] if one["image_id"] == row["id"]]
        boxes = np.array([one["bbox"] for one in found], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        images.append(
            labelled_image(
                row["file_name"],
                row["width"],
                row["height"],
                boxes,
                [position[one["category_id"]] for one in found],
                random.uniform(0.1, 1, len(found)).round(6),
                np.arange(len(found)) % 9 == 8,
            )
        )

    def read() -> Iterator[LabelledImage]:
        return iter(images)

    return LabelledSet("val", tuple(category["name"] for category in categories), dataset.root, read)


def compare(labelled: LabelledSet, found: dict[str, Any], form: str) -> dict[str, Any]:
    """How far an importer's boxes are from those that were exported."""
    expected = []
    for image in labelled:
        stem = image.name.rpartition(".")[0]
        for box, class_id, score, ignore in zip(
            image.boxes, image.class_id, image.score, image.ignore, strict=True
        ):
            if not (ignore and form.startswith("yolo")):
                expected.append((stem, labelled.classes[class_id], *box.tolist(), score, ignore))
    sizes = {image.name.rpartition(".")[0]: (image.width, image.height) for image in labelled}
    left = []
    for stem, name, x1, y1, x2, y2, score, *more in found["rows"]:
        # FiftyOne speaks in fractions
        width, height = sizes[stem] if more or found.get("fractions") else (1, 1)
        left.append((stem, name, x1 * width, y1 * height, x2 * width, y2 * height, score))
    missing, missing_ignored, furthest, scores = 0, 0, 0.0, 0.0
    kept_scores = 0
    for stem, name, *box, score, ignore in expected:
        near = [(max(abs(np.array(row[2:6]) - box)), row) for row in left if row[:2] == (stem, name)]
        distance, row = min(near, default=(np.inf, None), key=lambda pair: pair[0])
        if row is None or distance > 2:
            missing += not ignore
            missing_ignored += bool(ignore)
            continue
        left.remove(row)
        furthest = max(furthest, float(distance))
        if row[6] is not None:
            kept_scores += 1
            scores = max(scores, abs(float(row[6]) - score))
    return {
        "version": found["version"],
        "images": f"{found['images']} of {sum(1 for _ in labelled)}",
        "boxes": f"{len(expected) - missing - missing_ignored} of {len(expected)}",
        "ignore regions not read": missing_ignored,
        "not exported but read": len(left),
        "furthest corner, pixels": round(furthest, 4),
        "scores read": kept_scores,
        "largest difference of scores": round(scores, 6),
    }


def run(python: Path, program: str, *arguments: str) -> dict[str, Any]:
    """What a program in a tool's environment prints."""
    done = subprocess.run(
        [str(python / "bin" / "python"), "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            found: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
            return found
    return {"refused": done.stderr.strip().splitlines()[-1:] or done.stdout[-500:]}


def main() -> None:
    """Exports, imports, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for tool in ("datumaro", "fiftyone", "label-studio"):
        parser.add_argument(f"--{tool}", type=Path, help=f"virtual environment with {tool}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    labelled = make_set(given.data)
    results: dict[str, Any] = {}
    with TemporaryDirectory() as place:
        for form in ("coco", "yolo", "voc", "label-studio", "cvat"):
            folder = Path(place) / form
            export(labelled, form, folder, "copy")
            jobs = []
            kinds = {"coco": "coco", "yolo": "yolo", "voc": "voc_detection", "cvat": "cvat"}
            if given.datumaro and form in kinds:
                jobs.append(("datumaro", given.datumaro, DATUMARO, kinds[form]))
            if given.fiftyone and form in ("coco", "yolo", "voc"):
                jobs.append(("fiftyone", given.fiftyone, FIFTYONE, form))
            if given.label_studio and form == "label-studio":
                jobs.append(("label-studio-sdk", given.label_studio, LABEL_STUDIO, form))
            for tool, python, program, kind in jobs:
                found = run(python, program, str(folder), kind)
                results[f"{tool}: {form}"] = found if "refused" in found else compare(labelled, found, form)
                print(tool, form, results[f"{tool}: {form}"], flush=True)
    document = {
        "command": "python -m benchmarks.other_tools",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "images": IMAGES,
        "seed": SEED,
        "results": results,
    }
    if given.out:
        given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
