"""Greedy clustering of the boxes of every (image, class) group, best rank first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from composition.fusion.base import Pool, changes, rising


@dataclass(frozen=True, slots=True)
class Clusters:
    """M clusters of the N rows of a pool.

    Clusters are counted by group and, within a group, in order of opening; so
    the images and the groups of the openers rise.

    Attributes:
        cluster: (N,) int64, cluster of each row.
        opener: (M,) int64, the row that opened each cluster, its best.
        boxes: (M, 4) float64, box of each cluster.
        members: (M, T) int64, each teacher's best row in each cluster, -1 where
            it has none.
    """

    cluster: NDArray[np.int64]
    opener: NDArray[np.int64]
    boxes: NDArray[np.float64]
    members: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.opener)


def assign(
    pooled: Pool,
    threshold: float,
    *,
    weight: NDArray[np.float64] | None = None,
    one_per_teacher: bool = True,
    taken: Literal["next", "open"] = "next",
    inclusive: bool = True,
) -> Clusters:
    """Clusters rows around the weighted mean of the members so far.

    A row joins the cluster of its group whose box, as it is by then, it
    overlaps most, if the IoU reaches ``threshold``; or else it opens one. Boxes
    that do not touch never meet in a cluster, whatever the threshold.

    Args:
        pooled: The rows, in the order in which they are taken.
        threshold: IoU in [0, 1].
        weight: (N,) float64, not negative: weights of the rows in the mean of
            the box; None = the rank. Clusters of weight 0 keep their first box.
        one_per_teacher: Whether a cluster holds at most one box of a teacher.
        taken: Where a row goes whose teacher already has a box in the cluster
            that it overlaps most: to the next best one that it may join, or
            opens one if there is none (``next``), or opens one in any case
            (``open``). Without ``one_per_teacher`` it makes no difference.
        inclusive: Whether an IoU equal to the threshold is enough.

    Returns:
        The clusters; ``boxes`` are the final means.
    """
    from composition.fusion import cluster_kernels as kernels

    rows, teachers = len(pooled.rank), pooled.num_teachers
    used = pooled.rank if weight is None else weight
    cluster, opener = np.empty(rows, np.int64), np.empty(rows, np.int64)
    centre, members = np.empty((rows, 4)), np.empty((rows, teachers), np.int64)
    count = kernels.assign(
        pooled.boxes,
        np.require(used, np.float64, ["C", "W"]),
        pooled.teacher,
        pooled.starts,
        pooled.sizes,
        float(threshold),
        inclusive,
        one_per_teacher,
        taken == "next",
        cluster,
        opener,
        centre,
        members,
    )
    return Clusters(cluster, opener[:count], centre[:count], members[:count])


def suppress(pooled: Pool, threshold: float) -> Clusters:
    """Non-maximum suppression over the rows of all teachers.

    A row joins the first cluster of its group whose opener it overlaps with an
    IoU above ``threshold``, or else opens one.

    Args:
        pooled: The rows, in the order in which they are taken.
        threshold: IoU in [0, 1] to be exceeded.

    Returns:
        The clusters; ``boxes`` are those of the openers.
    """
    from composition.fusion import cluster_kernels as kernels

    rows = len(pooled.rank)
    cluster, opener = np.empty(rows, np.int64), np.empty(rows, np.int64)
    members = np.empty((rows, pooled.num_teachers), np.int64)
    count = kernels.suppress(
        pooled.boxes,
        pooled.teacher,
        pooled.starts,
        pooled.sizes,
        float(threshold),
        cluster,
        opener,
        members,
    )
    return Clusters(cluster, opener[:count], pooled.boxes[opener[:count]], members[:count])


def conflicts(
    image_id: NDArray[np.int64], class_id: NDArray[Any], boxes: NDArray[Any], iou: float = 0.8
) -> NDArray[np.int64]:
    """Finds boxes of different classes on one image that are much the same box.

    Boxes are swept by their left edge, so the time goes with the rows and the
    pairs that are near each other, not with the square of the rows.

    Args:
        image_id: (N,) in any order, quickest if rising.
        class_id: (N,) integers.
        boxes: (N, 4) with an area.
        iou: To be reached, in [0, 1].

    Returns:
        (P, 2) int64, rows i < j of each pair, in rising order.
    """
    from composition.fusion import cluster_kernels as kernels

    boxes = np.require(boxes, np.float64, ["C", "W"])
    images, classes = (np.require(column, np.int64, ["C", "W"]) for column in (image_id, class_id))
    order = _by_left_edge(images, boxes)
    pairs: NDArray[np.int64] = np.empty((len(images), 2), np.int64)
    count = kernels.conflicts(images, classes, boxes, order, float(iou), pairs)
    if count > len(pairs):
        pairs = np.empty((count, 2), np.int64)
        kernels.conflicts(images, classes, boxes, order, float(iou), pairs)
    pairs = pairs[:count]
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


def _by_left_edge(images: NDArray[np.int64], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows by image, then by left edge."""
    if not rising(images):
        return np.asarray(np.lexsort((boxes[:, 0], images)))
    from composition.fusion import sort_kernels as kernels

    left = boxes[:, 0].astype(np.float32)
    bits = left.view(np.int32).astype(np.int64)
    rows = np.arange(len(images))
    kernels.sort(
        rows,
        np.append(np.flatnonzero(changes(images)), len(images)),
        np.where(bits < 0, -(bits & 0x7FFFFFFF), bits),  # orders like the float32
        -boxes[:, 0],  # and this among those that are equal in float32
        boxes.astype(np.float32),
    )
    return rows
