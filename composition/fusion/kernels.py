"""The inner loops of fusion, compiled with numba at their first call.

Import this module late (see `composition.fusion.clusters`): numba alone takes
half a second. Every kernel works on one block of images in one thread and lets
go of the interpreter's lock, so that blocks run side by side. No fast-math, so
the arithmetic is that of numpy, bit by bit.

Row orders are by an integer key first, then by `_before`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

RUN = 16  # rows that insertion sort puts in order before runs are merged
_compiling = threading.Lock()


def kernel(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function for one signature when it is first called.

    The machine code is kept where numba keeps it: in ``NUMBA_CACHE_DIR`` if
    set, else beside this file, else in the user's cache folder. Where none of
    them can be written (a read-only container, a full disk), it is compiled
    anew in every process.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def compiled() -> Callable[..., Any]:
            try:
                return njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return]
            except (OSError, RuntimeError):  # nowhere to keep the machine code
                return njit(signature, nogil=True)(function)  # type: ignore[no-any-return]

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            with _compiling:  # free once compiled; two threads must not compile the same
                machine_code = compiled()
            return machine_code(*arguments)

        return call

    return decorate


@njit(nogil=True)
def _ordered(bits: int) -> int:
    """An integer that orders like the float32 with these (int32) bits; -0 equals 0."""
    wide = np.int64(bits)
    return wide if wide >= 0 else -(wide & 0x7FFFFFFF)


@njit(nogil=True)
def _before(keys, rank, boxes, one, other):  # type: ignore[no-untyped-def]
    """Whether row ``one`` comes first: by key, falling rank, box, row number."""
    if keys[one] != keys[other]:
        return keys[one] < keys[other]
    if rank[one] != rank[other]:
        return rank[one] > rank[other]
    for side in range(4):
        if boxes[one, side] != boxes[other, side]:
            return boxes[one, side] < boxes[other, side]
    return one < other


@njit(nogil=True)
def _sort(rows, spare, low, high, keys, rank, boxes):  # type: ignore[no-untyped-def]
    """Merge sort of ``rows[low:high]`` by `_before`; ``spare`` is scratch of the same length."""
    for start in range(low, high, RUN):
        for at in range(start + 1, min(start + RUN, high)):
            row = rows[at]
            free = at
            while free > start and _before(keys, rank, boxes, row, rows[free - 1]):
                rows[free] = rows[free - 1]
                free -= 1
            rows[free] = row
    width = RUN
    while width < high - low:
        for start in range(low, high - width, 2 * width):
            middle, end = start + width, min(start + 2 * width, high)
            if _before(keys, rank, boxes, rows[middle - 1], rows[middle]):
                continue  # the runs are in order as they lie
            spare[start:middle] = rows[start:middle]
            left, right, at = start, middle, start
            while left < middle and right < end:
                if _before(keys, rank, boxes, spare[left], rows[right]):
                    rows[at] = spare[left]
                    left += 1
                else:
                    rows[at] = rows[right]
                    right += 1
                at += 1
            rows[at : at + middle - left] = spare[left:middle]
        width *= 2


@njit(nogil=True)
def _shared(one, i, other, j):  # type: ignore[no-untyped-def]
    """Area that box i of one table shares with box j of another."""
    width = min(one[i, 2], other[j, 2]) - max(one[i, 0], other[j, 0])
    if width <= 0:
        return 0.0
    height = min(one[i, 3], other[j, 3]) - max(one[i, 1], other[j, 1])
    return width * height if height > 0 else 0.0


@njit(nogil=True)
def _area(boxes, row):  # type: ignore[no-untyped-def]
    return (boxes[row, 2] - boxes[row, 0]) * (boxes[row, 3] - boxes[row, 1])


@kernel("int64(float32[:, ::1], float32[::1], float64[::1])")
def first_broken(boxes, score, rank):  # type: ignore[no-untyped-def]
    """First row that is not a finite box with area, a score in [0, 1] and a finite rank; -1 if none."""
    for row in range(len(score)):
        width = np.float64(boxes[row, 2]) - np.float64(boxes[row, 0])
        height = np.float64(boxes[row, 3]) - np.float64(boxes[row, 1])
        # a comparison with NaN is false; inf - inf is NaN, and inf - x is not finite
        sound = width > 0 and height > 0 and np.isfinite(width) and np.isfinite(height)
        sound = sound and 0 <= score[row] and score[row] <= 1 and np.isfinite(rank[row])
        if not sound:
            return row
    return -1


@kernel(
    "int64(int64[::1], int32[::1], float32[:, ::1], float32[::1], float64[::1], int32[::1], int64[::1], float64,"
    "int64[::1], int64[::1], int32[::1], float64[:, ::1], float32[::1], int64[::1], float64[::1])"
)
def group(  # type: ignore[no-untyped-def]
    image_id, class_id, boxes, score, rank, rank_bits, offsets, skip_below,
    row_out, image_out, class_out, boxes_out, score_out, teacher_out, rank_out,
):  # fmt: skip
    """Puts the rows of T tables into the order (image, class, falling rank, box, teacher).

    Args:
        image_id: (N,) the tables one after the other, each sorted by image.
        class_id: (N,)
        boxes: (N, 4)
        score: (N,)
        rank: (N,) what the order in a group goes by.
        rank_bits: (N,) the bits of the rank rounded to float32.
        offsets: (T + 1,) first row of every table.
        skip_below: Rows with a score below it are left out.
        row_out: (N,) row that comes at each place.
        image_out: (N,) and so on: the columns in the new order.
        class_out: See above.
        boxes_out: See above.
        score_out: See above.
        teacher_out: See above; the number of the table.
        rank_out: See above.

    Returns:
        How many rows there are, the others being left out.
    """
    total, teachers = len(image_id), len(offsets) - 1
    keys = np.empty(total, np.int64)
    spare = np.empty(total, np.int64)
    teacher_of = np.empty(total, np.int8)
    next_row = offsets[:-1].copy()
    filled, seen = 0, 0
    while seen < total:
        image = np.int64(0x7FFFFFFFFFFFFFFF)
        for teacher in range(teachers):
            if next_row[teacher] < offsets[teacher + 1]:
                image = min(image, image_id[next_row[teacher]])
        low = filled
        for teacher in range(teachers):
            row = next_row[teacher]
            while row < offsets[teacher + 1] and image_id[row] == image:
                if np.float64(score[row]) >= skip_below:
                    keys[row] = (np.int64(class_id[row]) << 32) | (0x7FFFFFFF - _ordered(rank_bits[row]))
                    row_out[filled], teacher_of[row] = row, teacher
                    filled += 1
                row += 1
                seen += 1
            next_row[teacher] = row
        _sort(row_out, spare, low, filled, keys, rank, boxes)
        for at in range(low, filled):
            row = row_out[at]
            image_out[at], class_out[at] = image, class_id[row]
            score_out[at], rank_out[at] = score[row], rank[row]
            for side in range(4):
                boxes_out[at, side] = boxes[row, side]
            teacher_out[at] = teacher_of[row]
    return filled


@kernel(
    "int64(float64[:, ::1], float64[::1], int64[::1], int64[::1], int64[::1], float64, boolean, boolean, boolean,"
    "int64[::1], int64[::1], float64[:, ::1], int64[:, ::1])"
)
def assign(  # type: ignore[no-untyped-def]
    boxes, weight, teacher, starts, sizes, threshold, inclusive, one_per_teacher, next_best,
    cluster, opener, centre, members,
):  # fmt: skip
    """Clusters around weighted means; see `composition.fusion.clusters.assign`.

    ``cluster`` (N,), ``opener`` (N,), ``centre`` (N, 4) and ``members`` (N, T) are
    written; all but the first are valid up to the number of clusters.

    Returns:
        The number of clusters.
    """
    teachers = members.shape[1]
    mass = np.empty(len(boxes))
    moment = np.empty((len(boxes), 4))
    area = np.empty(len(boxes))
    count = 0
    for number in range(len(starts)):
        first = count
        for row in range(starts[number], starts[number] + sizes[number]):
            own, own_area = teacher[row], _area(boxes, row)
            best, best_iou = -1, 0.0
            for other in range(first, count):
                if one_per_teacher and next_best and members[other, own] >= 0:
                    continue
                shared = _shared(centre, other, boxes, row)
                if shared > 0:
                    iou = shared / (area[other] + own_area - shared)
                    if iou > best_iou and (iou > threshold or (inclusive and iou == threshold)):
                        best, best_iou = other, iou
            if best >= 0 and one_per_teacher and members[best, own] >= 0:
                best = -1
            if best < 0:
                best = count
                count += 1
                opener[best], mass[best] = row, weight[row]
                for side in range(4):
                    centre[best, side] = boxes[row, side]
                    moment[best, side] = weight[row] * boxes[row, side]
                for silent in range(teachers):
                    members[best, silent] = -1
                area[best] = own_area
            else:
                mass[best] += weight[row]
                for side in range(4):
                    moment[best, side] += weight[row] * boxes[row, side]
                if mass[best] > 0:  # weights of 0 have no mean; the first box stays
                    for side in range(4):
                        centre[best, side] = moment[best, side] / mass[best]
                    area[best] = _area(centre, best)
            cluster[row] = best
            if members[best, own] < 0:
                members[best, own] = row
    return count


@kernel(
    "int64(float64[:, ::1], int64[::1], int64[::1], int64[::1], float64,"
    "int64[::1], int64[::1], int64[:, ::1])"
)
def suppress(boxes, teacher, starts, sizes, threshold, cluster, opener, members):  # type: ignore[no-untyped-def]
    """Greedy suppression; see `composition.fusion.clusters.suppress`. Writes and returns like `assign`."""
    teachers = members.shape[1]
    count = 0
    for number in range(len(starts)):
        first = count
        for row in range(starts[number], starts[number] + sizes[number]):
            own_area = _area(boxes, row)
            best = -1
            for other in range(first, count):
                shared = _shared(boxes, opener[other], boxes, row)
                if shared > 0 and shared / (_area(boxes, opener[other]) + own_area - shared) > threshold:
                    best = other
                    break
            if best < 0:
                best = count
                count += 1
                opener[best] = row
                for silent in range(teachers):
                    members[best, silent] = -1
            cluster[row] = best
            if members[best, teacher[row]] < 0:
                members[best, teacher[row]] = row
    return count


@kernel(
    "void(int64[::1], float32[:, ::1], float32[::1], int32[::1], float32[::1], int32[::1], int64[:, ::1],"
    "float32[::1], int64[::1], float32[:, ::1], float32[::1], int32[::1], float32[::1], int64[::1],"
    "float32[:, ::1])"
)
def finish(  # type: ignore[no-untyped-def]
    image_id, boxes, score, class_id, spread, score_bits, members, member_score,
    image_out, boxes_out, score_out, class_out, spread_out, mask_out, scores_out,
):  # fmt: skip
    """Sorts fused boxes like every table (image, falling score, class, box) and says who is in them.

    Args:
        image_id: (M,) grouped and rising.
        boxes: (M, 4)
        score: (M,)
        class_id: (M,)
        spread: (M,)
        score_bits: (M,) the bits of the scores.
        members: (M, T) row of each teacher in it, -1 where silent.
        member_score: (N,) scores of the rows.
        image_out: (M,) and so on: the columns in the new order.
        boxes_out: See above.
        score_out: See above.
        class_out: See above.
        spread_out: See above.
        mask_out: (M,) bit mask of the teachers.
        scores_out: (M, T) their scores, NaN where silent.
    """
    total, teachers = members.shape
    keys = np.empty(total, np.int64)
    rows = np.empty(total, np.int64)
    spare = np.empty(total, np.int64)
    for row in range(total):
        keys[row] = (-_ordered(score_bits[row]) << 32) | (np.int64(class_id[row]) + 0x80000000)
        rows[row] = row
    low = 0
    while low < total:
        high = low + 1
        while high < total and image_id[high] == image_id[low]:
            high += 1
        _sort(rows, spare, low, high, keys, score, boxes)
        low = high
    for at in range(total):
        row = rows[at]
        image_out[at], score_out[at], class_out[at] = image_id[row], score[row], class_id[row]
        spread_out[at] = spread[row]
        for side in range(4):
            boxes_out[at, side] = boxes[row, side]
        mask = np.int64(0)
        for teacher in range(teachers):
            member = members[row, teacher]
            if member >= 0:
                mask |= np.int64(1) << teacher
                scores_out[at, teacher] = member_score[member]
            else:
                scores_out[at, teacher] = np.nan
        mask_out[at] = mask


@kernel("int64(int64[::1], int64[::1], float64[:, ::1], int64[::1], float64, int64[:, ::1])")
def conflicts(image_id, class_id, boxes, order, threshold, pairs):  # type: ignore[no-untyped-def]
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
        reach = boxes[row, 0] + (1 - threshold) * (boxes[row, 2] - boxes[row, 0]) * (1 + 1e-9)
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
