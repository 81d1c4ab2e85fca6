"""Pseudo-labels in COCO form, whole or piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from composition.errors import UserError
from composition.pseudo_labels.table import IGNORE, PseudoLabels


def to_coco(
    labels: PseudoLabels,
    images: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The labels as a COCO dictionary that any trainer reads.

    Args:
        labels: The labels.
        images: Rows for `image_row`; images without a label stay in the file
            (they are background).
        classes: Union classes; category ids count from 1 in their order.
        info: Goes under ``info``; give it nothing that changes between runs.

    Returns:
        ``info``, ``images`` (by id), ``categories`` and ``annotations`` (see
        `annotation_rows`). Equal labels give equal dictionaries.

    Raises:
        UserError: A label names an image that is not in ``images``.
    """
    known = {image["id"] for image in images}
    unknown = sorted(set(np.unique(labels.image_id).tolist()) - known)
    if unknown:
        raise UserError(f"pseudo-labels name image id {unknown[0]}, which is not in the image index")
    return {
        "info": dict(info or {}),
        "images": [image_row(image) for image in sorted(images, key=lambda image: int(image["id"]))],
        "categories": categories(classes),
        "annotations": annotation_rows(labels),
    }


def image_row(image: Mapping[str, Any]) -> dict[str, Any]:
    """The COCO row of an image: ``id``, ``file_name``, ``width``, ``height`` and nothing else.

    Only where it is there and not empty, ``unspoken`` is kept too: ids of the
    categories for which no expert has spoken on this image.
    """
    row = {key: image[key] for key in ("id", "file_name", "width", "height")}
    return {**row, "unspoken": image["unspoken"]} if image.get("unspoken") else row


def categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """The COCO rows of the classes, ids from 1."""
    return [{"id": index, "name": name} for index, name in enumerate(classes, 1)]


def annotation_rows(labels: PseudoLabels, first_id: int = 1) -> list[dict[str, Any]]:
    """The COCO rows of labels.

    Args:
        labels: The labels.
        first_id: Id of the first row; the others count on.

    Returns:
        One row per label, in the order of the table: ``score`` is the weight,
        ``box_weight`` the weight of the box; regions to ignore have ``iscrowd:
        1``; pixels are rounded to 4 digits, weights to 6.
    """
    corners = labels.boxes.astype(np.float64)
    size = corners[:, 2:] - corners[:, :2]
    columns = zip(
        labels.image_id.tolist(),
        labels.class_id.tolist(),
        np.round(np.concatenate([corners[:, :2], size], axis=1), 4).tolist(),
        np.round(size.prod(axis=1), 4).tolist(),
        (labels.kind == IGNORE).astype(int).tolist(),
        np.round(labels.weight.astype(np.float64), 6).tolist(),
        np.round(labels.box_weight.astype(np.float64), 6).tolist(),
        strict=True,
    )
    return [
        {
            "id": index,
            "image_id": image_id,
            "category_id": class_id + 1,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
            "score": score,
            "box_weight": box_weight,
        }
        for index, (image_id, class_id, box, area, crowd, score, box_weight) in enumerate(columns, first_id)
    ]


def coco_text(
    images: Iterable[Mapping[str, Any]],
    classes: Sequence[str],
    shards: Iterable[PseudoLabels],
    info: Mapping[str, Any],
) -> Iterator[str]:
    """The text of `to_coco`'s dictionary as JSON, in pieces of a shard at most.

    Args:
        images: As for `to_coco`, by rising id.
        classes: As for `to_coco`.
        shards: The labels; every shard's images follow on those of the one before.
        info: As for `to_coco`.

    Yields:
        Pieces that, joined, are what ``json.dumps(to_coco(...))`` gives for the
        joined shards.
    """
    yield f'{{"info": {json.dumps(dict(info))}, "images": ['
    yield from _joined(json.dumps(image_row(image)) for image in images)
    yield f'], "categories": {json.dumps(categories(classes))}, "annotations": ['
    yield from _joined(_rows(shards))
    yield "]}"


def _rows(shards: Iterable[PseudoLabels]) -> Iterator[str]:
    first_id = 1
    for labels in shards:
        if len(labels):
            yield json.dumps(annotation_rows(labels, first_id))[1:-1]
        first_id += len(labels)


def _joined(pieces: Iterable[str]) -> Iterator[str]:
    for number, piece in enumerate(pieces):
        yield f", {piece}" if number else piece
