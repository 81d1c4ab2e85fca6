"""A data set that a detector learns in seconds: coloured squares on noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model_zoo.bundle import Manifest
from model_zoo.student_settings import StudentSettings
from model_zoo.training import train

CLASSES = ("red", "green", "blue")


def write_squares(folder: Path, count: int = 12, size: int = 64, seed: int = 0) -> Path:
    """Writes images and ``train.json``; each third image is empty, one box is an ignore region.

    The file lists the categories in another order than `CLASSES`, with ids from 7.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        pixels = rng.integers(90, 130, (size, size, 3), np.uint8)
        if number % 3:
            side = int(rng.integers(size // 4, size // 2))
            x, y = (int(v) for v in rng.integers(0, size - side, 2))
            label = number % len(CLASSES)
            pixels[y : y + side, x : x + side] = np.eye(3)[label] * 255
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_id(CLASSES[label]),
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": int(number == 1),
                }
            )
        name = f"{number:03}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "width": size, "height": size})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category_id(name), "name": name} for name in reversed(CLASSES)],
    }
    return dump(folder / "train.json", document)


def category_id(name: str) -> int:
    return 7 + 2 * CLASSES.index(name)


def dump(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


def doubt(annotations: Path) -> Path:
    """Makes the labels of squares imperfect: weights of all sizes, a class unspoken on each fourth image."""
    document = json.loads(annotations.read_text())
    for number, box in enumerate(document["annotations"]):
        box |= {"score": (number % 4 + 1) / 5, "box_weight": (number % 3) / 2}
    for image in document["images"][::4]:
        image["unspoken"] = [category_id("green")]
    return dump(annotations, document)


def train_squares(folder: Path, settings: StudentSettings, **options: Any) -> Manifest:
    """Trains on what `write_squares` wrote into ``data/`` beside the folder; options of `train`."""
    return train(
        settings=settings,
        vocabulary=CLASSES,
        annotations=folder.parent / "data" / "train.json",
        image_root=folder.parent / "data",
        work_dir=folder / "work",
        output=folder / "bundle",
        name="squares",
        seed=7,
        threads=1,
        **options,
    )
