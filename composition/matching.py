"""Which detections hit a labelled object: the truth that calibration learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections

IOUS: NDArray[np.float64] = np.arange(0.5, 0.96, 0.05, dtype=np.float64)
"""COCO's ten thresholds."""


@dataclass(frozen=True, slots=True)
class Objects:
    """M labelled objects.

    Attributes:
        image_id: (M,) int64.
        class_id: (M,) int64, index into the union classes.
        boxes: (M, 4) float64, x1 y1 x2 y2 in pixels.
        crowd: (M,) bool, regions that are neither right nor wrong.
    """

    image_id: NDArray[np.int64]
    class_id: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image_id)


def objects(dataset: Mapping[str, Any], categories: Mapping[int, int]) -> Objects:
    """The labels of a checked COCO dictionary in the union classes.

    Args:
        dataset: What `composition.coco.check_coco` returns.
        categories: Category id to union class id; other categories are left out.
    """
    rows = [row for row in dataset["annotations"] if row["category_id"] in categories]
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        np.array([row["image_id"] for row in rows], np.int64),
        np.array([categories[row["category_id"]] for row in rows], np.int64),
        boxes,
        np.array([row["iscrowd"] for row in rows], np.bool_),
    )


@dataclass(frozen=True, slots=True)
class Matches:
    """What became of N detections.

    Attributes:
        quality: (N,) float64 in [0, 1]: the share of the thresholds at which the
            row is right, each object being given to the best row only.
        iou: (N,) float64, IoU with the best object of its image and class.
        nearest: (N,) int64, that object; -1 where there is none.
        counted: (N,) bool, False inside a crowd region.
    """

    quality: NDArray[np.float64]
    iou: NDArray[np.float64]
    nearest: NDArray[np.int64]
    counted: NDArray[np.bool_]


def match(detections: Detections, truth: Objects, ious: NDArray[np.float64] = IOUS) -> Matches:
    """Matches greedily by falling score within image and class, at every threshold.

    Args:
        detections: N rows in the union classes, in any order.
        truth: The labels; images without any make every row on them wrong.
        ious: Rising thresholds of the IoU.
    """
    count = len(detections)
    quality, best, counted = np.zeros(count), np.zeros(count), np.ones(count, np.bool_)
    nearest = np.full(count, -1, np.int64)
    groups: dict[tuple[int, int], list[int]] = {}
    for position, key in enumerate(zip(truth.image_id.tolist(), truth.class_id.tolist(), strict=True)):
        groups.setdefault(key, []).append(position)
    rows: dict[tuple[int, int], list[int]] = {}
    for row in table.order(detections).tolist():
        key = (int(detections.image_id[row]), int(detections.class_id[row]))
        if key in groups:
            rows.setdefault(key, []).append(row)
    boxes = detections.boxes.astype(np.float64)
    for key, members in rows.items():
        places = np.array(groups[key])
        crowd = truth.crowd[places]
        overlap, inside = _overlaps(boxes[members], truth.boxes[places])
        if crowd.any():
            counted[members] = inside[:, crowd].max(axis=1) < ious[0]
        overlap = overlap[:, ~crowd]
        if overlap.size:
            best[members] = overlap.max(axis=1)
            nearest[members] = places[~crowd][overlap.argmax(axis=1)]
            quality[members] = _share(overlap, ious)
    return Matches(quality, best, nearest, counted | (best >= ious[0]))


def _share(overlap: NDArray[np.float64], ious: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) share of thresholds at which each row, in order, takes a free object."""
    total = np.zeros(len(overlap))
    for threshold in ious - 1e-9:
        free = np.ones(overlap.shape[1], np.bool_)
        for row, values in enumerate(overlap):
            chosen = int(np.where(free, values, -1).argmax())
            if free[chosen] and values[chosen] >= threshold:
                free[chosen] = False
                total[row] += 1
    return total / len(ious)


def _overlaps(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, M) IoU, and intersection over the area of the first box."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    size = np.clip(np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner, 0, None)
    shared = size.prod(axis=2)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1)[:, None]
    others = (second[:, 2:] - second[:, :2]).prod(axis=1)[None]
    return shared / np.maximum(areas + others - shared, 1e-12), shared / areas
