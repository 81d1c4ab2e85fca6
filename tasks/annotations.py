"""Labelled training sets: chosen classes and parts of a COCO file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from composition.aliases import require_known
from composition.coco import require_sizes
from composition.errors import UserError
from tasks.evaluate import Dataset
from tasks.store import Artifact, Store, digest_of

ANNOTATIONS_VERSION = 1
ANNOTATIONS_FILE = "instances.json"


def category_names(dataset: Dataset) -> tuple[str, ...]:
    """The classes of a COCO file, by category id."""
    categories = sorted(dataset.coco["categories"], key=lambda category: category["id"])
    return tuple(category["name"] for category in categories)


def select_annotations(
    store: Store,
    dataset: Dataset,
    classes: Sequence[str],
    images_digest: str,
    *,
    part: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> Artifact:
    """Writes the part of a COCO file that a detector shall learn from.

    Args:
        store: Where the selection goes.
        dataset: The labelled set.
        classes: The classes to keep, in the detector's order; images that hold
            none of them stay as background.
        images_digest: Digest of the image files.
        part: ``(k, n)``: only the k-th of n disjoint random parts of the images.
        seed: Seed of the division into parts.

    Returns:
        The artifact with ``instances.json``; category ids from 1 in class order.
        Weights, ignore regions and unspoken classes are kept.

    Raises:
        UserError: A class is not in the file, or an image says no size.
    """
    require_sizes(dataset.coco, str(dataset.source))
    known = category_names(dataset)
    for name in classes:
        require_known(name, known, f"{dataset.source}: --classes")
    key = digest_of(
        "annotations", ANNOTATIONS_VERSION, dataset.digest, images_digest, list(classes), part, seed
    )
    found = store.find("annotations", key)
    if found:
        return found
    number, count = part
    order = np.random.default_rng(seed).permutation(len(dataset.coco["images"]))
    images_by_name = sorted(dataset.coco["images"], key=lambda image: image["file_name"])
    images = [images_by_name[i] for i in sorted(order[number - 1 :: count].tolist())]
    if not images:
        raise UserError(f"part {number}/{count} of {dataset.source} holds no images", "Use fewer parts.")
    kept = {image["id"] for image in images}
    names = {category["id"]: category["name"] for category in dataset.coco["categories"]}
    new_ids = {name: position for position, name in enumerate(classes, start=1)}
    images = [_renumbered(image, names, new_ids) for image in images]
    annotations = [
        {**annotation, "category_id": new_ids[names[annotation["category_id"]]]}
        for annotation in dataset.coco["annotations"]
        if annotation["image_id"] in kept and names[annotation["category_id"]] in new_ids
    ]
    categories = [{"id": position, "name": name} for name, position in new_ids.items()]
    with store.write("annotations", key, {"dataset": dataset.digest}) as draft:
        document = {"images": images, "annotations": annotations, "categories": categories}
        draft.file(ANNOTATIONS_FILE).write_text(json.dumps(document))
        draft.counts = {"images": len(images), "boxes": len(annotations)}
    return draft.artifact


def _renumbered(
    image: Mapping[str, Any], names: Mapping[int, str], new_ids: Mapping[str, int]
) -> dict[str, Any]:
    """An image whose unspoken categories, if any, have the new ids."""
    if not image.get("unspoken"):
        return dict(image)
    unspoken = {names[category] for category in image["unspoken"]}
    return {**image, "unspoken": sorted(new_ids[name] for name in unspoken if name in new_ids)}


def parse_part(text: str) -> tuple[int, int]:
    """``"1/2"`` to ``(1, 2)``.

    Raises:
        UserError: Not of that form, or the number exceeds the count.
    """
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise UserError(f"--part {text!r} is not a part", "Write for example 1/2 for the first of two halves.")


def annotations_file(selection: Artifact) -> Path:
    """The COCO file of a selection."""
    return selection.file(ANNOTATIONS_FILE)
