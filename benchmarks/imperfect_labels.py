"""What weights, ignore regions and class masks are worth when labels are wrong in a known way.

    python -m benchmarks.imperfect_labels [--architecture NAME] [--rows ROW ...]

Scenes of the demo (handwritten digits on photographs) with their true boxes
made worse, see `degrade`: 30 % of the boxes are missing, there are as many
false ones, and on every fifth image three classes were not looked for. The same
student learns, in the same number of steps,

- ``clean``: the true boxes, what the others can reach at best;
- ``stock``: all boxes as if they were certain;
- ``threshold``: the boxes with a score of at least 0.5, as if certain;
- ``ours``: all boxes with their weights, ignore regions and class masks;
- ``ours_no_weights``, ``ours_no_ignore``, ``ours_no_mask``: without one of them.

Results go into ``benchmarks/results/imperfect_labels.json``, row by row; rows
that are there with the same version of training are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "imperfect_labels.json"
IMAGES, EVALUATION_IMAGES, SIZE, EPOCHS = 300, 150, 128, 24
DROPPED = FALSE = 0.3
"""Boxes that are missing, and false boxes, as parts of the true boxes."""
SEEN_UNSURE = 0.8
"""Part of the missing boxes of which somebody was unsure: ignore regions."""
UNSPOKEN_IMAGES, UNSPOKEN_CLASSES = 0.2, 3
SURE, UNSURE = (5.0, 2.0), (2.0, 5.0)
"""Beta distributions of the scores of true and false boxes; means 0.71 and 0.29, so they overlap."""
ROWS: dict[str, dict[str, Any]] = {
    "clean": {},
    "stock": {"weights": "hard", "ignore": False, "class_mask": False},
    "threshold": {"weights": "hard", "ignore": False, "class_mask": False},
    "ours": {},
    "ours_no_weights": {"weights": "hard"},
    "ours_no_ignore": {"ignore": False},
    "ours_no_mask": {"class_mask": False},
}


def degrade(document: dict[str, Any], seed: int) -> dict[str, Any]:
    """Labels of teachers that miss, dream and doubt.

    Args:
        document: COCO, true boxes.
        seed: Seed of every choice.

    Returns:
        COCO with ``score``, ignore regions and ``unspoken``.
    """
    rng = np.random.default_rng(seed)
    result = copy.deepcopy(document)
    categories = [category["id"] for category in result["categories"]]
    for image in result["images"]:
        if rng.random() < UNSPOKEN_IMAGES:
            chosen = rng.choice(categories, UNSPOKEN_CLASSES, replace=False)
            image["unspoken"] = sorted(int(category) for category in chosen)
    unspoken = {image["id"]: set(image.get("unspoken", [])) for image in result["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in result["images"]}
    kept: list[dict[str, Any]] = []
    for true in result["annotations"]:
        if rng.random() < FALSE:
            kept.append(_false_box(true, sizes[true["image_id"]], categories, rng))
        if true["category_id"] in unspoken[true["image_id"]]:
            continue
        if rng.random() >= DROPPED:
            kept.append({**true, "score": float(rng.beta(*SURE))})
        elif rng.random() < SEEN_UNSURE:
            kept.append({**true, "iscrowd": 1})
    found = [box for box in kept if box["category_id"] not in unspoken[box["image_id"]]]
    result["annotations"] = [{**box, "id": number} for number, box in enumerate(found, 1)]
    return result


def _false_box(
    true: dict[str, Any], size: tuple[int, int], categories: list[int], rng: np.random.Generator
) -> dict[str, Any]:
    """The size of a true box at a random place, of a random class."""
    width, height = true["bbox"][2:]
    x, y = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return {
        **true,
        "bbox": [x, y, width, height],
        "category_id": int(rng.choice(categories)),
        "score": float(rng.beta(*UNSURE)),
    }


def labels_of(row: str, true: dict[str, Any], seed: int) -> dict[str, Any]:
    """The training labels of a row."""
    if row == "clean":
        return true
    worse = degrade(true, seed)
    if row == "threshold":
        sure = [box for box in worse["annotations"] if box.get("score", 0.0) >= 0.5]
        return {**worse, "annotations": sure}
    return worse


def measure(row: str, architecture: str, seed: int, folder: Path) -> dict[str, Any]:
    """Trains and evaluates one row."""
    from composition.evaluation import evaluate
    from demo.scenes import NAMES, make_scenes
    from model_zoo.adapters.registry import open_detector
    from model_zoo.images import read_rgb
    from model_zoo.student_settings import StudentSettings
    from model_zoo.training import TRAINING_VERSION, train

    training = make_scenes(folder / "train", images=IMAGES, seed=31, size=SIZE, part="pool")
    evaluation = make_scenes(
        folder / "evaluation", images=EVALUATION_IMAGES, seed=32, size=SIZE, part="evaluation"
    )
    annotations = folder / f"{row}.json"
    annotations.write_text(json.dumps(labels_of(row, json.loads(training.read_text()), seed)))
    settings = StudentSettings(
        architecture=architecture, image_size=SIZE, epochs=EPOCHS, flip=False, **ROWS[row]
    )
    started = time.monotonic()
    train(
        settings=settings,
        vocabulary=NAMES,
        annotations=annotations,
        image_root=training.parent,
        work_dir=folder / f"work-{row}",
        output=folder / row,
        name=row,
        seed=seed,
        threads=1,
    )
    seconds = time.monotonic() - started
    document = json.loads(evaluation.read_text())
    images = [read_rgb(evaluation.parent / image["file_name"]) for image in document["images"]]
    found = open_detector(folder / row).predict(images)
    ids = np.array([image["id"] for image in document["images"]], np.int64)
    from composition.detections import with_image_ids

    metrics = evaluate(with_image_ids(found, ids), document, NAMES)
    return {
        "row": row,
        "architecture": architecture,
        "seed": seed,
        "mAP": metrics.AP,
        "AP50": metrics.AP50,
        "training_version": TRAINING_VERSION,
        "seconds": round(seconds),
        "command": f"python -m benchmarks.imperfect_labels --architecture {architecture} --rows {row}",
    }


def main() -> None:
    """Measures what is missing, prints and writes."""
    from model_zoo.training import TRAINING_VERSION

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--architecture", default="atss_pico")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    results: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    keys = ("row", "architecture", "seed", "training_version")
    known = {tuple(result[key] for key in keys) for result in results}
    with tempfile.TemporaryDirectory() as folder:
        for row in chosen.rows:
            if (row, chosen.architecture, chosen.seed, TRAINING_VERSION) not in known:
                results.append(measure(row, chosen.architecture, chosen.seed, Path(folder)))
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")
                print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    main()
