"""COCO: one JSON file, and the one form that keeps everything.

Scores, ignore regions (``iscrowd: 1``), images without a box, and the categories
that are ``unspoken`` on an image, as in the pseudo-labels of the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from composition.pseudo_labels.coco import categories, image_row
from tasks.formats.labelled import LabelledImage, LabelledSet

FILE = "annotations/instances_train.json"


def write(labelled: LabelledSet, folder: Path) -> None:
    """Writes ``annotations/instances_train.json``, image after image; ids count from 1."""
    path = folder / FILE
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        file.write('{"images": [')
        file.writelines(_joined(_image_row(number, image) for number, image in enumerate(labelled, 1)))
        file.write(f'], "categories": {json.dumps(categories(labelled.classes))}, "annotations": [')
        file.writelines(_joined(_annotation_rows(labelled)))
        file.write("]}\n")


def _image_row(number: int, image: LabelledImage) -> dict[str, Any]:
    return image_row(
        {
            "id": number,
            "file_name": image.name,
            "width": image.width,
            "height": image.height,
            "unspoken": [class_id + 1 for class_id in image.unspoken],
        }
    )


def _annotation_rows(labelled: LabelledSet) -> Iterator[dict[str, Any]]:
    identity = 0
    for number, image in enumerate(labelled, 1):
        for box, class_id, score, ignore in image.rows():
            identity += 1
            x1, y1, x2, y2 = box
            # single precision has 7 digits: 4 behind the point for any image
            size = [round(x2 - x1, 4), round(y2 - y1, 4)]
            row = {
                "id": identity,
                "image_id": number,
                "category_id": class_id + 1,
                "bbox": [round(x1, 4), round(y1, 4), *size],
                "area": round(size[0] * size[1], 4),
                "iscrowd": int(ignore),
                "segmentation": [],  # some importers miss the key
            }
            yield row if score != score else {**row, "score": round(score, 6)}


def _joined(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        text = json.dumps(row)
        yield f", {text}" if number else text
