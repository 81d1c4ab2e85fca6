"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from composition.aliases import shared_classes
from composition.coco import check_coco
from composition.detections import Detections
from composition.matching import Objects, objects

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Confusion:
    """Labelled objects (rows) against detections (columns).

    Attributes:
        classes: Names of the categories; row and column of the background come after them.
        counts: (C + 1, C + 1) int64. The last column counts objects that were
            missed, the last row detections of nothing.
        iou: Overlap from which a detection belongs to an object.
        score: Score from which detections count.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    iou: float
    score: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "classes": list(self.classes),
            "counts": self.counts.tolist(),
            "iou": self.iou,
            "score": self.score,
        }

    def worst(self, count: int) -> list[tuple[str, str, int]]:
        """The most frequent mistakes between two classes: true class, given class, how often."""
        wrong = self.counts[:-1, :-1].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [divmod(int(place), len(self.classes)) for place in order]
        return [(self.classes[i], self.classes[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def confusion(
    detections: Detections,
    dataset: Mapping[str, Any],
    classes: Sequence[str],
    *,
    iou: float = 0.5,
    score: float = 0.3,
    restrict_to: Sequence[str] | None = None,
    source: str = "dataset",
) -> Confusion:
    """Gives every object at most one detection, whatever its class, and counts the pairs.

    By falling score each detection takes a free object that it overlaps: one of
    its own class if there is any, among these the one with the largest IoU.
    Detections of nothing that lie inside a crowd region are not counted.

    Args:
        detections: ``image_id`` of the data set, ``class_id`` into ``classes``.
        dataset: A COCO dictionary with labels.
        classes: The detections' class names, matched with the categories' as in `evaluate`.
        iou: Smallest overlap of a detection and its object.
        score: Lower detections are left out.
        restrict_to: Names of the categories to count; None = all. Objects and
            detections of other categories are left out.
        source: Name of the data set's file, for the errors.

    Raises:
        UserError: A broken data set.
    """
    checked = check_coco(dataset, source)
    categories = [
        category
        for category in checked["categories"]
        if restrict_to is None or category["name"] in restrict_to
    ]
    names = [category["name"] for category in categories]
    truth = objects(checked, {category["id"]: index for index, category in enumerate(categories)})
    target = np.full(len(classes), -1, np.int64)
    for class_id, index in shared_classes(classes, names).items():
        target[class_id] = index
    known = target[detections.class_id] >= 0
    found = detections[known & (detections.score >= score)]
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    for image_id in np.union1d(truth.image_id, found.image_id):
        _count_image(
            found[found.image_id == image_id], target, _rows(truth, truth.image_id == image_id), iou, counts
        )
    return Confusion(tuple(names), counts, iou, score)


def _rows(truth: Objects, chosen: NDArray[np.bool_]) -> Objects:
    return Objects(truth.image_id[chosen], truth.class_id[chosen], truth.boxes[chosen], truth.crowd[chosen])


def _count_image(
    found: Detections, target: NDArray[np.int64], truth: Objects, iou: float, counts: NDArray[np.int64]
) -> None:
    """Adds one image to the counts."""
    nothing = len(counts) - 1
    free = ~truth.crowd
    overlap = _overlap(found, truth)
    for row in np.argsort(-found.score, kind="stable"):
        given = target[found.class_id[row]]
        near = free & (overlap[row] >= iou)
        own = near & (truth.class_id == given)
        choice = own if own.any() else near
        if choice.any():
            taken = int(np.where(choice, overlap[row], -1).argmax())
            free[taken] = False
            counts[truth.class_id[taken], given] += 1
        elif not (truth.crowd & (overlap[row] >= iou)).any():
            counts[nothing, given] += 1
    counts[:, nothing] += np.bincount(truth.class_id[free], minlength=len(counts))


def _overlap(found: Detections, truth: Objects) -> NDArray[np.float64]:
    """(N, M) IoU; with crowd regions intersection over the area of the detection."""
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))

    def sides(boxes: NDArray[Any]) -> NDArray[np.float64]:
        wide = boxes.astype(np.float64)
        return np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1)

    crowd = truth.crowd.astype(np.uint8).tolist()
    return np.asarray(mask.iou(sides(found.boxes), sides(truth.boxes), crowd), np.float64)
