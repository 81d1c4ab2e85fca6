"""The inner loops that hold boxes against each other.

Import this module late, it brings numba. Every kernel works on one block of
images in one thread and lets go of the interpreter's lock, so that blocks run
side by side. No fast-math: the arithmetic is that of numpy, bit by bit.
Helpers stand in the file of their callers, whose stamp tells numba when its
machine code is out of date.
"""

from __future__ import annotations

import numpy as np

from composition.fusion.compiled import (
    Floats,
    Floats2,
    Ints,
    Ints2,
    helper,
    kernel,
)


@helper
def _shared(one, i, other, j):  # type: ignore[no-untyped-def]
    """Area that box i of one table shares with box j of another."""
    width = min(one[i, 2], other[j, 2]) - max(one[i, 0], other[j, 0])
    if width <= 0:
        return 0.0
    height = min(one[i, 3], other[j, 3]) - max(one[i, 1], other[j, 1])
    return width * height if height > 0 else 0.0


@helper
def _area(boxes, row):  # type: ignore[no-untyped-def]
    return (boxes[row, 2] - boxes[row, 0]) * (boxes[row, 3] - boxes[row, 1])


@helper
def _open(cluster, row, teacher, opener, members):  # type: ignore[no-untyped-def]
    """Opens a cluster with a row."""
    opener[cluster] = row
    for silent in range(members.shape[1]):
        members[cluster, silent] = -1
    members[cluster, teacher] = row


@helper
def _best(  # type: ignore[no-untyped-def]
    boxes, row, own, centre, area, first, count, threshold, inclusive, one_per_teacher, next_best, members
):
    """The cluster of ``first`` to ``count`` that a row joins, or -1."""
    best, best_iou, own_area = -1, 0.0, _area(boxes, row)
    for cluster in range(first, count):
        shared = _shared(centre, cluster, boxes, row)
        if shared > 0:
            iou = shared / (area[cluster] + own_area - shared)
            reached = iou > threshold or (inclusive and iou == threshold)
            if reached and iou > best_iou:
                if one_per_teacher and next_best and members[cluster, own] >= 0:
                    continue
                best, best_iou = cluster, iou
    if best >= 0 and one_per_teacher and members[best, own] >= 0:
        return -1
    return best


@kernel
def assign(
    boxes: Floats2,
    weight: Floats,
    teacher: Ints,
    starts: Ints,
    sizes: Ints,
    threshold: float,
    inclusive: bool,
    one_per_teacher: bool,
    next_best: bool,
    cluster: Ints,
    opener: Ints,
    centre: Floats2,
    members: Ints2,
) -> int:
    """Clusters around weighted means; see `composition.fusion.clusters.assign`.

    ``cluster`` (N,), ``opener`` (N,), ``centre`` (N, 4) and ``members`` (N, T) are
    written; all but the first are valid up to the number of clusters.

    Returns:
        The number of clusters.
    """
    mass = np.empty(len(boxes))
    moment = np.empty((len(boxes), 4))
    area = np.empty(len(boxes))
    count = 0
    for number in range(len(starts)):
        first = count
        for row in range(starts[number], starts[number] + sizes[number]):
            own = teacher[row]
            best = _best(
                boxes, row, own, centre, area, first, count,
                threshold, inclusive, one_per_teacher, next_best, members,
            )  # fmt: skip
            if best < 0:
                best = count
                count += 1
                _open(best, row, own, opener, members)
                mass[best], area[best] = weight[row], _area(boxes, row)
                for side in range(4):
                    centre[best, side] = boxes[row, side]
                    moment[best, side] = weight[row] * boxes[row, side]
            else:
                mass[best] += weight[row]
                for side in range(4):
                    moment[best, side] += weight[row] * boxes[row, side]
                    if mass[best] > 0:  # weights of 0 have no mean; the first box stays
                        centre[best, side] = moment[best, side] / mass[best]
                area[best] = _area(centre, best)
                if members[best, own] < 0:
                    members[best, own] = row
            cluster[row] = best
    return count


@kernel
def suppress(
    boxes: Floats2,
    teacher: Ints,
    starts: Ints,
    sizes: Ints,
    threshold: float,
    cluster: Ints,
    opener: Ints,
    members: Ints2,
) -> int:
    """Greedy suppression; see `composition.fusion.clusters.suppress`. Writes and returns like `assign`."""
    count = 0
    for number in range(len(starts)):
        first = count
        for row in range(starts[number], starts[number] + sizes[number]):
            own_area = _area(boxes, row)
            winner = first
            while winner < count:
                shared = _shared(boxes, opener[winner], boxes, row)
                if shared > 0 and shared / (_area(boxes, opener[winner]) + own_area - shared) > threshold:
                    break
                winner += 1
            if winner == count:
                count += 1
                _open(winner, row, teacher[row], opener, members)
            elif members[winner, teacher[row]] < 0:
                members[winner, teacher[row]] = row
            cluster[row] = winner
    return count


@helper
def _highest(score, alive, low, high):  # type: ignore[no-untyped-def]
    """The first of the rows alive that has the highest score, or -1."""
    best = -1
    for row in range(low, high):
        if alive[row] and (best < 0 or score[row] > score[best]):
            best = row
    return best


@helper
def _soften(  # type: ignore[no-untyped-def]
    boxes, teacher, winner, number, low, high, threshold, sigma, score, alive, claimed, members
):
    """Lowers the scores of what a winner overlaps, and claims what nobody has claimed."""
    for row in range(low, high):
        shared = _shared(boxes, winner, boxes, row) if alive[row] else 0.0
        if shared <= 0:
            continue
        iou = shared / (_area(boxes, winner) + _area(boxes, row) - shared)
        if sigma > 0:
            score[row] *= np.exp(-iou * iou / sigma)
        elif iou > threshold:
            score[row] *= 1 - iou
        if iou > threshold and not claimed[row]:
            claimed[row] = True
            first = members[number, teacher[row]]
            if first < 0 or row < first:
                members[number, teacher[row]] = row


@kernel
def soften(
    boxes: Floats2,
    teacher: Ints,
    starts: Ints,
    sizes: Ints,
    threshold: float,
    sigma: float,
    floor: float,
    score: Floats,
    opener: Ints,
    members: Ints2,
) -> int:
    """Soft suppression; see `composition.fusion.soft_nms`.

    Args:
        boxes: (N, 4)
        teacher: (N,)
        starts: (G,)
        sizes: (G,)
        threshold: IoU to be exceeded.
        sigma: Of the Gaussian decay; 0 for the linear one.
        floor: Boxes whose score falls below it are dropped.
        score: (N,) the scores; overwritten by the decayed ones.
        opener: (N,) written: the rows that remain.
        members: (N, T) written: the best row of each teacher in it.

    Returns:
        How many rows remain.
    """
    alive = np.ones(len(boxes), np.bool_)
    claimed = np.zeros(len(boxes), np.bool_)
    count = 0
    for number in range(len(starts)):
        low, high = starts[number], starts[number] + sizes[number]
        winner = _highest(score, alive, low, high)
        while winner >= 0 and score[winner] >= floor:
            alive[winner] = False
            _open(count, winner, teacher[winner], opener, members)
            _soften(
                boxes, teacher, winner, count, low, high,
                threshold, sigma, score, alive, claimed, members,
            )  # fmt: skip
            count += 1
            winner = _highest(score, alive, low, high)
    return count


@kernel
def conflicts(
    image_id: Ints, class_id: Ints, boxes: Floats2, order: Ints, threshold: float, pairs: Ints2
) -> int:
    """Pairs of boxes of different classes; see `composition.fusion.clusters.conflicts`.

    Args:
        image_id: (N,)
        class_id: (N,)
        boxes: (N, 4)
        order: (N,) rows by image, then by left edge.
        threshold: IoU to be reached.
        pairs: (P, 2), written as far as it reaches.

    Returns:
        The number of pairs, also of those for which there was no place.
    """
    count = 0
    for at in range(len(order)):
        row = order[at]
        # a box whose left edge lies further in overlaps too little: IoU <= shared width / own width
        reach = boxes[row, 0] + (1 - threshold + 1e-9) * (boxes[row, 2] - boxes[row, 0])
        for later in range(at + 1, len(order)):
            other = order[later]
            if image_id[other] != image_id[row] or boxes[other, 0] > reach:
                break
            if class_id[other] != class_id[row]:
                shared = _shared(boxes, row, boxes, other)
                if shared > 0 and shared / (_area(boxes, row) + _area(boxes, other) - shared) >= threshold:
                    if count < len(pairs):
                        pairs[count, 0], pairs[count, 1] = min(row, other), max(row, other)
                    count += 1
    return count
