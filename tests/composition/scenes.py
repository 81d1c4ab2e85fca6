"""Random detections of several teachers, and labels for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.matching import Objects
from composition.statistics import Statistics, empty, merge


def teachers(
    seed: int, images: int, classes: int, count: int, boxes: int = 12
) -> tuple[list[Detections], NDArray[np.bool_]]:
    """Tables of ``count`` teachers of which each sees about two thirds of the classes, and the coverage."""
    random = np.random.default_rng(seed)
    coverage = random.uniform(size=(classes, count)) < 0.67
    tables = []
    for teacher in range(count):
        rows = boxes * images
        corner = random.uniform(0, 60, (rows, 2)).astype(np.float32)
        size = random.uniform(5, 30, (rows, 2)).astype(np.float32)
        class_id = random.integers(0, classes, rows)
        made = table.make(
            random.integers(0, max(images, 1), rows),
            np.concatenate([corner, corner + size], axis=1),
            random.choice([0.0, 1.0, 0.5, *random.uniform(size=9)], rows),
            class_id,
        )
        tables.append(table.sort(made[coverage[class_id, teacher]]))
    return tables, coverage


def on_images(tables: list[Detections], first: int, last: int) -> list[Detections]:
    """The rows on the images from ``first`` up to, not with, ``last``."""
    return [part[(part.image_id >= first) & (part.image_id < last)] for part in tables]


def of_scores(rows: list[list[float]]) -> Statistics:
    """Statistics of one teacher's boxes, one image a box, from the scores of every class."""
    from composition.fusion import Nms
    from composition.statistics import statistics_of

    total = empty(len(rows), 1)
    for class_id, scores in enumerate(rows):
        count = len(scores)
        found = table.make(range(count), [[0, 0, 9, 9]] * count, scores, [class_id] * count)
        coverage = np.ones((len(rows), 1), np.bool_)
        total = merge(total, statistics_of(Nms().fuse([found]), [found], coverage, count))
    return total


def labelled_rows(
    scores: list[float], right: list[bool], class_id: list[int], missed: list[int] | None = None
) -> tuple[Detections, Objects]:
    """One box an image, an object under the right ones, and classes of objects that nobody found."""
    count, lost = len(scores), missed or []
    found = table.make(range(count), [[0, 0, 9, 9]] * count, scores, class_id)
    hit = np.flatnonzero(right)
    objects = Objects(
        np.concatenate([hit, count + np.arange(len(lost))]).astype(np.int64),
        np.concatenate([np.array(class_id)[hit], lost]).astype(np.int64),
        np.tile([0.0, 0.0, 9.0, 9.0], (len(hit) + len(lost), 1)),
        np.zeros(len(hit) + len(lost), np.bool_),
    )
    return found, objects
