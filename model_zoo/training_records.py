"""Training images and boxes: COCO JSON in, one record per image out.

Beside plain COCO (human labels), pseudo-labels say more: ``score`` and
``box_weight`` of an annotation are weights in [0, 1], ``iscrowd`` 1 makes it an
ignore region of its category, and ``unspoken`` of an image lists the ids of
categories that nobody looked for there. What is absent means certainty.
``repeat`` of an image says how often an epoch shows it (absent: once).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo.student_settings import StudentSettings


@dataclass(frozen=True, slots=True)
class Record:
    """One image and its boxes.

    Attributes:
        path: The image file.
        width: Width in pixels after EXIF orientation.
        height: Height in pixels after EXIF orientation.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels, clipped to the image.
        labels: (N,) int64, index into the vocabulary.
        ignore: (N,) bool, True for regions in which the class of the label may be, or not.
        class_weights: (N,) float32 in [0, 1], of the class loss.
        box_weights: (N,) float32 in [0, 1], of the box loss.
        unspoken: (K,) int64, classes of which this image may hold objects without a box.
        repeat: How often an epoch shows the image.
    """

    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    class_weights: NDArray[np.float32]
    box_weights: NDArray[np.float32]
    unspoken: NDArray[np.int64]
    repeat: int = 1


def usable(records: Sequence[Record], settings: StudentSettings) -> tuple[Record, ...]:
    """The records without what the settings switch off.

    Args:
        records: As read.
        settings: ``weights`` "hard" makes all weights 1, ``ignore`` false
            makes ignore regions background, ``class_mask`` false makes
            unspoken classes absent ones.
    """
    changed = []
    for record in records:
        changes: dict[str, Any] = {}
        if settings.weights == "hard":
            changes["class_weights"] = changes["box_weights"] = np.ones(len(record.boxes), np.float32)
        if not settings.class_mask:
            changes["unspoken"] = np.empty(0, np.int64)
        if not settings.ignore:
            for field in ("boxes", "labels", "ignore", "class_weights", "box_weights"):
                changes[field] = changes.get(field, getattr(record, field))[~record.ignore]
        changed.append(dataclasses.replace(record, **changes))
    return tuple(changed)


def imperfect(records: Sequence[Record]) -> bool:
    """Whether the labels hold anything that the stock losses cannot express."""
    return any(
        record.ignore.any()
        or len(record.unspoken) > 0
        or (record.class_weights != 1).any()
        or (record.box_weights != 1).any()
        for record in records
    )


def read_records(
    annotations: Path,
    image_root: Path,
    vocabulary: tuple[str, ...],
    other_categories: Literal["error", "background"] = "error",
) -> tuple[Record, ...]:
    """Reads and checks a COCO instances file.

    Args:
        annotations: COCO JSON; may have ``score``, ``box_weight``, ``iscrowd``,
            ``unspoken`` and ``repeat``, see the module.
        image_root: Folder that ``file_name`` is relative to.
        vocabulary: Class names in the order of the student's classes.
        other_categories: What boxes of a category outside the vocabulary
            mean: an error, or plain background (a detector of some classes is
            trained on a file that labels more).

    Returns:
        One record per image, in the order of the file; images without boxes
        are kept, they train as background.

    Raises:
        UserError: Unreadable file, category outside the vocabulary, class
            without a category, missing image, broken box or weight, or no box
            at all.
    """
    document = _read_json(annotations)
    labels = _labels_of_categories(document, annotations, vocabulary, other_categories)
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if annotation.get("image_id") not in by_image:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} names image id "
                f"{annotation.get('image_id')}, which is not in 'images'",
                "Export the annotations again.",
            )
        if annotation.get("category_id") not in labels:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} has category id "
                f"{annotation.get('category_id')}, which is not in 'categories'",
                "Export the annotations again.",
            )
        by_image[annotation["image_id"]].append(annotation)
    records = tuple(
        _record(image, by_image[image["id"]], labels, annotations, image_root) for image in document["images"]
    )
    if not any((~record.ignore).any() for record in records):
        raise UserError(
            f"{annotations}: none of its {len(records)} images has a box of {', '.join(vocabulary)}",
            "There is nothing to learn; lower the score thresholds or add images.",
        )
    return records


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as COCO JSON: {error}", "Give a COCO instances file."
        ) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise UserError(f"{path}: the list {key!r} is missing", "Give a COCO instances file.")
    return document


def _labels_of_categories(
    document: dict[str, Any],
    path: Path,
    vocabulary: tuple[str, ...],
    other_categories: Literal["error", "background"],
) -> dict[Any, int | None]:
    index = {name: label for label, name in enumerate(vocabulary)}
    names = [category["name"] for category in document["categories"]]
    if other_categories == "error":
        for name in names:
            if name not in index:
                near = difflib.get_close_matches(name, vocabulary, n=3) or list(vocabulary[:5])
                raise UserError(
                    f"{path}: category {name!r} is not one of the student's classes",
                    f"Rename or map it; candidates: {', '.join(near)}.",
                )
    for name in vocabulary:
        if names.count(name) != 1:
            near = difflib.get_close_matches(name, names, n=3) or names[:5]
            raise UserError(
                f"{path}: class {name!r} stands {names.count(name)} times in 'categories', not once",
                f"Correct the class names; the file has: {', '.join(near)}.",
            )
    return {category["id"]: index.get(category["name"]) for category in document["categories"]}


def _record(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    labels: dict[Any, int | None],
    source: Path,
    image_root: Path,
) -> Record:
    path = image_root / image["file_name"]
    if not path.is_file():
        raise UserError(f"{source}: image {path} does not exist", "Check the image folder.")
    width, height = int(image["width"]), int(image["height"])
    boxes: list[tuple[float, float, float, float]] = []
    classes: list[int] = []
    ignore: list[bool] = []
    weights: list[tuple[float, float]] = []
    for annotation in annotations:
        label = labels[annotation["category_id"]]
        if label is None:
            continue
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(math.isfinite, box)):
            raise UserError(
                f"{source}: annotation {annotation.get('id')}: 'bbox' is {box!r}, not [x, y, width, height]",
                "Export the annotations again.",
            )
        weight = tuple(_weight(annotation, key, source) for key in ("score", "box_weight"))
        x1, y1 = max(box[0], 0.0), max(box[1], 0.0)
        x2, y2 = min(box[0] + box[2], width), min(box[1] + box[3], height)
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            boxes.append((x1, y1, x2, y2))
            classes.append(label)
            ignore.append(bool(annotation.get("iscrowd", 0)))
            weights.append((weight[0], weight[1]))
    both = np.asarray(weights, np.float32).reshape(-1, 2)
    return Record(
        path,
        width,
        height,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int64),
        np.asarray(ignore, bool),
        both[:, 0],
        both[:, 1],
        _unspoken(image, labels, source),
        _repeat(image, source),
    )


def _repeat(image: dict[str, Any], source: Path) -> int:
    value = image.get("repeat", 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"{source}: image {image.get('id')}: 'repeat' is {value!r}, not a whole number from 1",
            "Export the annotations again, or leave it out: 1 is meant then.",
        )
    return value


def _weight(annotation: dict[str, Any], key: str, source: Path) -> float:
    value = annotation.get(key, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(
            f"{source}: annotation {annotation.get('id')}: {key!r} is {value!r}, not a number from 0 to 1",
            "Export the annotations again, or leave it out: 1 is meant then.",
        )
    return float(value)


def _unspoken(image: dict[str, Any], labels: dict[Any, int | None], source: Path) -> NDArray[np.int64]:
    categories = image.get("unspoken", [])
    if not isinstance(categories, list) or any(category not in [*labels] for category in categories):
        raise UserError(
            f"{source}: image {image.get('id')}: 'unspoken' is {categories!r}, not a list of category ids",
            f"Use ids from 'categories': {', '.join(map(str, list(labels)[:10]))}.",
        )
    found = {labels[category] for category in categories}
    return np.asarray(sorted(label for label in found if label is not None), np.int64)
