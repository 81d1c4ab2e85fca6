"""Greedy clustering of boxes, for all images and classes at once.

Both fusers walk through the boxes of an (image, class) group from the best
score down and hold each against the clusters so far. Groups do not touch each
other, so step k is done for the k-th box of every group together: the Python
loop is as long as the largest group, not as the number of images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composition.fusion.base import Pool


def iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union, row by row.

    Args:
        first: (N, 4) x1 y1 x2 y2 with an area.
        second: (N, 4), likewise.

    Returns:
        (N,) in [0, 1].
    """
    width = np.minimum(first[:, 2], second[:, 2]) - np.maximum(first[:, 0], second[:, 0])
    height = np.minimum(first[:, 3], second[:, 3]) - np.maximum(first[:, 1], second[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])
    areas += (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    return np.asarray(shared / (areas - shared))


def assign(
    pooled: Pool, threshold: float, *, moving: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Gives every row its cluster.

    A row joins a cluster of its group whose box it overlaps with an IoU above
    ``threshold``, or else opens one.

    Args:
        pooled: The rows.
        threshold: IoU to be exceeded.
        moving: False: a cluster's box stays that of its first row, and a row
            joins the first cluster that fits (non-maximum suppression). True:
            the box is the mean of the members weighted by ``rank``, and a row
            joins the cluster that it overlaps most (weighted boxes fusion).

    Returns:
        cluster: (N,) cluster of each row, counted from 0 in order of opening
            within the groups.
        opener: (M,) the row that opened each cluster.
        boxes: (M, 4) float64 box of each cluster.
    """
    total = len(pooled.boxes)
    # A group's clusters take its own row numbers as slots, from its start on.
    slot_of = np.zeros(total, np.int64)
    opener = np.full(total, -1, np.int64)
    box = np.zeros((total, 4))
    weight = np.zeros(total)
    moment = np.zeros((total, 4))

    def open_at(slots: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        slot_of[rows], opener[slots], box[slots] = slots, rows, pooled.boxes[rows]
        weight[slots] = pooled.rank[rows]
        moment[slots] = pooled.rank[rows, None] * pooled.boxes[rows]

    largest_first = np.argsort(-pooled.sizes, kind="stable")
    starts, sizes = pooled.starts[largest_first], pooled.sizes[largest_first]
    opened = np.ones(len(starts), np.int64)
    open_at(starts, starts)
    for step in range(1, int(sizes.max(initial=0))):
        active = int(np.searchsorted(-sizes, -step))  # groups with more than `step` rows
        rows, count = starts[:active] + step, opened[:active]
        owner = np.repeat(np.arange(active), count)
        offsets = np.cumsum(count) - count
        slots = np.arange(len(owner)) - np.repeat(offsets - starts[:active], count)
        overlap = iou(box[slots], pooled.boxes[rows][owner])
        fits = overlap > threshold
        if moving:
            fits &= overlap == np.maximum.reduceat(overlap, offsets)[owner]
        hits = np.flatnonzero(fits)
        joining, where = np.unique(owner[hits], return_index=True)
        chosen, members = slots[hits[where]], rows[joining]
        slot_of[members] = chosen
        if moving:
            weight[chosen] += pooled.rank[members]
            moment[chosen] += pooled.rank[members, None] * pooled.boxes[members]
            mass = weight[chosen] > 0  # scores of 0 have no mean; the first box stays
            box[chosen[mass]] = moment[chosen[mass]] / weight[chosen[mass], None]
        alone = np.ones(active, np.bool_)
        alone[joining] = False
        open_at(starts[:active][alone] + count[alone], rows[alone])
        opened[:active] += alone
    used = opener >= 0
    number = np.cumsum(used) - 1
    return number[slot_of], opener[used], box[used]
