"""Checking COCO JSON before anything trusts it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from composition.errors import UserError

WAY_OUT = "Mend the file, or export it again."
WEIGHTS = ("score", "box_weight")
"""How sure an annotation's class and box are, as pseudo-labels say; absent means certain."""


def check_coco(dataset: Mapping[str, Any], source: str, *, labels: bool = True) -> dict[str, Any]:
    """Checks a COCO dictionary and returns it in the form that is worked with.

    Args:
        dataset: The parsed JSON.
        source: Name of the file, for the errors.
        labels: Whether categories and annotations are needed. False: they are
            neither needed nor looked at, as in a file of unlabeled images.

    Returns:
        A new dictionary with ``images``, ``annotations`` and ``categories``;
        every annotation has ``id``, ``image_id``, ``category_id``, ``bbox``,
        ``area`` and ``iscrowd`` (missing areas are width times height, missing
        iscrowd 0, missing ids counted on) and, where they are there, the
        weights ``score`` and ``box_weight``; nothing else, segmentations are
        left out. Without ``labels`` the last two are empty.

    Raises:
        UserError: Missing keys, wrong types, duplicate ids or category names,
            annotations that name an unknown image or category, boxes that are
            not four finite numbers with a size that is not negative, weights
            that are not from 0 to 1, ``unspoken`` categories of an image that
            are not in the file.
    """
    if not isinstance(dataset, Mapping):
        raise UserError(f"{source} is not a COCO file: not a JSON object", WAY_OUT)
    images = _images(_rows(dataset, "images", source), source)
    result: dict[str, Any] = {"images": images, "annotations": [], "categories": []}
    if not labels:
        return result
    for key in ("categories", "annotations"):
        if key not in dataset:
            raise UserError(
                f"{source} has no {key!r}: it is a file of unlabeled images",
                "Give a COCO file with labels.",
            )
    result["categories"] = _categories(_rows(dataset, "categories", source), source)
    known = {category["id"] for category in result["categories"]}
    _check_unspoken(images, known, source)
    result["annotations"] = _annotations(
        _rows(dataset, "annotations", source), {image["id"] for image in images}, known, source
    )
    return result


def require_sizes(dataset: Mapping[str, Any], source: str) -> None:
    """Checks that every image says how large it is, which training needs.

    Raises:
        UserError: One does not.
    """
    for position, image in enumerate(dataset["images"]):
        for key in ("width", "height"):
            if key not in image:
                raise UserError(
                    f"{source}: images[{position}] ({image['file_name']}) has no {key!r}",
                    "Give the size in pixels of the upright image.",
                )


def _rows(dataset: Mapping[str, Any], key: str, source: str) -> list[Mapping[str, Any]]:
    rows = dataset.get(key)
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise UserError(f"{source}: {key!r} is missing or not a list", WAY_OUT)
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(f"{source}: {key}[{position}] is not an object", WAY_OUT)
    return list(rows)


def _integer(row: Mapping[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{where}: {key!r} is {value!r}, not a whole number", WAY_OUT)
    return value


def _name(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key!r} is {value!r}, not a name", WAY_OUT)
    return value


def _unique(value: object, seen: set[Any], what: str, where: str) -> None:
    if value in seen:
        raise UserError(f"{where}: {what} {value!r} appears twice", WAY_OUT)
    seen.add(value)


def _images(rows: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    if not rows:
        raise UserError(f"{source}: 'images' is empty", "Give a file with at least one image.")
    seen: set[Any] = set()
    for position, row in enumerate(rows):
        where = f"{source}: images[{position}]"
        _unique(_integer(row, "id", where), seen, "image id", where)
        _name(row, "file_name", where)
        for key in ("width", "height"):
            if key in row and _integer(row, key, where) <= 0:
                raise UserError(f"{where}: {key!r} is {row[key]}, not a number of pixels", WAY_OUT)
    return [dict(row) for row in rows]


def _categories(rows: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    if not rows:
        raise UserError(f"{source}: 'categories' is empty", "Give a COCO file with labels.")
    ids: set[Any] = set()
    names: set[Any] = set()
    for position, row in enumerate(rows):
        where = f"{source}: categories[{position}]"
        _unique(_integer(row, "id", where), ids, "category id", where)
        _unique(_name(row, "name", where), names, "category name", where)
    return [dict(row) for row in rows]


def _check_unspoken(images: Sequence[Mapping[str, Any]], known: set[int], source: str) -> None:
    for position, image in enumerate(images):
        unspoken = image.get("unspoken", [])
        if not isinstance(unspoken, list) or not all(
            isinstance(category, int) and category in known for category in unspoken
        ):
            raise UserError(
                f"{source}: images[{position}]: 'unspoken' is {unspoken!r}, not a list of category ids",
                f"Use ids from 'categories': {', '.join(map(str, sorted(known)[:10]))}.",
            )


def _annotations(
    rows: Sequence[Mapping[str, Any]], images: set[int], categories: set[int], source: str
) -> list[dict[str, Any]]:
    ids: set[Any] = set()
    for position, row in enumerate(rows):
        if "id" in row:
            where = f"{source}: annotations[{position}]"
            _unique(_integer(row, "id", where), ids, "annotation id", where)
    following = max(ids, default=0) + 1
    result = []
    for position, row in enumerate(rows):
        where = f"{source}: annotations[{position}]"
        image_id, category_id = _integer(row, "image_id", where), _integer(row, "category_id", where)
        if image_id not in images:
            raise UserError(f"{where} names image id {image_id}, which is not in 'images'", WAY_OUT)
        if category_id not in categories:
            raise UserError(f"{where} names category id {category_id}, which is not in 'categories'", WAY_OUT)
        if row.get("iscrowd", 0) not in (0, 1):
            raise UserError(f"{where}: 'iscrowd' is {row['iscrowd']!r}, not 0 or 1", WAY_OUT)
        bbox = _bbox(row, where)
        area = row.get("area")
        if area is None:
            area = bbox[2] * bbox[3]
        elif not _number(area):
            raise UserError(f"{where}: 'area' is {area!r}, not a number", WAY_OUT)
        identity = row.get("id", following)
        following += "id" not in row
        result.append(
            {
                "id": identity,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": bbox,
                "area": float(area),
                "iscrowd": int(row.get("iscrowd", 0)),
                **{key: _weight(row[key], key, where) for key in WEIGHTS if key in row},
            }
        )
    return result


def _weight(value: object, key: str, where: str) -> float:
    if not _number(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise UserError(f"{where}: {key!r} is {value!r}, not a number from 0 to 1", WAY_OUT)
    return float(value)  # type: ignore[arg-type]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bbox(row: Mapping[str, Any], where: str) -> list[float]:
    bbox = row.get("bbox")
    if not isinstance(bbox, Sequence) or len(bbox) != 4 or not all(map(_number, bbox)):
        raise UserError(f"{where}: 'bbox' is {bbox!r}, not [x, y, width, height]", WAY_OUT)
    if bbox[2] < 0 or bbox[3] < 0:
        raise UserError(f"{where}: 'bbox' {list(bbox)} has a negative size", WAY_OUT)
    return [float(value) for value in bbox]
