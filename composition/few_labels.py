"""Few labels of people beside many of detectors: who is believed about what, on which image.

- On an image that a person labelled, the person alone says where the classes
  are that the labels are complete for (the *covered* ones): every other label
  and ignore region of these classes goes, also where the person drew nothing.
- The other classes keep the pseudo-labels of that image. One of them that lies
  on a box of the person's (IoU >= 0.8) becomes an ignore region: the object is
  known to be something else, or both (a child class), so it teaches nothing.
- All other images keep all their pseudo-labels.
- A class that nobody has looked for on an image is *unspoken* there: it is not
  covered, and no pseudo-labels know it.

Boxes that the person drew of classes that are not covered are not read: where
some are missing, the ones that are there say nothing about the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.coco import WEIGHTS
from composition.errors import UserError
from composition.pseudo_labels.decide import CONFLICT_IOU


@dataclass(frozen=True, slots=True)
class Counts:
    """What the combination holds.

    Attributes:
        images: Images in all.
        human_images: Of these, with labels of a person.
        human_boxes: Boxes of people.
        pseudo_boxes: Boxes of detectors that stay.
        replaced: Pseudo-labels and regions that gave way to a person's labels.
        conflicts: Pseudo-labels that became ignore regions, because a person says it is something else.
        unspoken: Pairs of image and class for which nobody has looked.
    """

    images: int
    human_images: int
    human_boxes: int
    pseudo_boxes: int
    replaced: int
    conflicts: int
    unspoken: int


def combine(
    human: Mapping[str, Any],
    pool: Mapping[str, Any] | None,
    classes: Sequence[str],
    covered: Mapping[str, str],
    same: Mapping[int, int],
    repeat: int = 1,
) -> tuple[dict[str, Any], Counts]:
    """Puts labels of people and pseudo-labels together.

    Args:
        human: Checked COCO of a person. ``unspoken`` of an image takes classes
            out of what is covered there.
        pool: Checked COCO of pseudo-labels, None = there are none. Its
            categories are called as the classes; one that it does not have is
            unspoken on all its images.
        classes: The student's classes in order.
        covered: Category of ``human`` to class, for those that it is complete for.
        same: Image id in ``human`` to the id of the same picture in ``pool``.
        repeat: How often an epoch shows a person's image; ``repeat`` in its row.

    Returns:
        COCO with category ids from 1 in class order, and what it holds. Images of
        the pool come first, in its order; ids count from 1.

    Raises:
        UserError: The same picture has two sizes, or ``covered`` is empty.
    """
    if not covered:
        raise UserError("the labels cover no class of the student", "Name at least one class.")
    numbers = {name: number for number, name in enumerate(classes, 1)}
    mine = _Source(human, {name: numbers[target] for name, target in covered.items()})
    others = None if pool is None else _Source(pool, numbers)
    to_human = {pooled: own for own, pooled in same.items()}
    merged = _Merged(len(classes), repeat)
    if others is not None:
        for image_id in others.images:
            merged.add(others, image_id, mine, to_human.get(image_id))
    for image_id in mine.images:
        if image_id not in same:
            merged.add(None, None, mine, image_id)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    document = {"images": merged.images, "categories": categories, "annotations": merged.annotations}
    return document, merged.counts()


class _Source:
    """A COCO dictionary, by image and in the student's class numbers."""

    def __init__(self, dataset: Mapping[str, Any], numbers: Mapping[str, int]) -> None:
        names = {category["id"]: category["name"] for category in dataset["categories"]}
        self.images: dict[int, Mapping[str, Any]] = {image["id"]: image for image in dataset["images"]}
        self.rows: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in self.images}
        self._known = {numbers[name] for name in names.values() if name in numbers}
        self._numbers = {key: numbers[name] for key, name in names.items() if name in numbers}
        for row in dataset["annotations"]:
            number = self._numbers.get(row["category_id"])
            if number is not None:
                self.rows[row["image_id"]].append({**row, "category_id": number})

    def spoken(self, image_id: int) -> set[int]:
        """The classes that it has looked for on an image."""
        silent = {self._numbers.get(category) for category in self.images[image_id].get("unspoken", ())}
        return self._known - silent


class _Merged:
    """The combination while it grows."""

    def __init__(self, classes: int, repeat: int) -> None:
        self._every = set(range(1, classes + 1))
        self._repeat = repeat
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._human_images = self._human_boxes = self._pseudo_boxes = 0
        self._replaced = self._conflicts = self._unspoken = 0

    def add(self, pool: _Source | None, pooled: int | None, human: _Source, own: int | None) -> None:
        """Adds an image of the pool, of the person, or of both."""
        covered = set() if own is None else human.spoken(own)
        spoken = set(covered)
        rows: list[dict[str, Any]] = []
        if pool is not None and pooled is not None:
            spoken |= pool.spoken(pooled)
            kept = [row for row in pool.rows[pooled] if row["category_id"] not in covered]
            self._replaced += len(pool.rows[pooled]) - len(kept)
            # a class of which it says that it did not look has no labels, whatever is in the file
            rows += [row for row in kept if row["category_id"] in spoken]
        drawn = [] if own is None else [row for row in human.rows[own] if row["category_id"] in covered]
        rows = list(self._give_way(rows, drawn))
        self._pseudo_boxes += sum(not row["iscrowd"] for row in rows)
        self._human_boxes += sum(not row["iscrowd"] for row in drawn)
        self._image(
            None if pool is None or pooled is None else pool.images[pooled],
            None if own is None else human.images[own],
            self._every - spoken,
        )
        for row in [*rows, *drawn]:
            number = len(self.annotations) + 1
            self.annotations.append({**_plain(row), "id": number, "image_id": len(self.images)})

    def _image(
        self, pooled: Mapping[str, Any] | None, own: Mapping[str, Any] | None, unspoken: Collection[int]
    ) -> None:
        image = own if pooled is None else pooled
        assert image is not None
        if own is not None and pooled is not None and _size(own) != _size(pooled):
            raise UserError(
                f"{own['file_name']} is {_size(own)} pixels in the labels, but {_size(pooled)} in the pool",
                "Export the labels for the upright image (EXIF orientation applied).",
            )
        row = {key: image[key] for key in ("file_name", "width", "height")}
        row["id"] = len(self.images) + 1
        if unspoken:
            row["unspoken"] = sorted(unspoken)
        if own is not None:
            self._human_images += 1
            row["repeat"] = self._repeat
        self._unspoken += len(unspoken)
        self.images.append(row)

    def _give_way(
        self, rows: Sequence[dict[str, Any]], drawn: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        certain = [row["bbox"] for row in drawn if not row["iscrowd"]]
        shared = iou([row["bbox"] for row in rows], certain)
        for row, overlaps in zip(rows, shared, strict=True):
            if not row["iscrowd"] and (overlaps >= CONFLICT_IOU).any():
                self._conflicts += 1
                row = {**row, "iscrowd": 1}
            yield row

    def counts(self) -> Counts:
        """What it holds so far."""
        return Counts(
            len(self.images),
            self._human_images,
            self._human_boxes,
            self._pseudo_boxes,
            self._replaced,
            self._conflicts,
            self._unspoken,
        )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("category_id", "bbox", "area", "iscrowd", *WEIGHTS)
    return {key: row[key] for key in keys if key in row}


def _size(image: Mapping[str, Any]) -> str:
    return f"{image['width']} x {image['height']}"


def iou(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(N, M) IoU of COCO boxes (x, y, width, height)."""
    one = np.asarray(first, np.float64).reshape(-1, 1, 4)
    other = np.asarray(second, np.float64).reshape(1, -1, 4)
    corner = np.maximum(one[..., :2], other[..., :2])
    end = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    shared = np.clip(end - corner, 0, None).prod(axis=2)
    areas = one[..., 2:].prod(axis=2) + other[..., 2:].prod(axis=2)
    result: NDArray[np.float64] = shared / np.maximum(areas - shared, 1e-12)
    return result
