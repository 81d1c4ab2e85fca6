"""The inner loops of fusion.

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
    ShortFloats,
    ShortFloats2,
    ShortInts,
    helper,
    kernel,
)

RUN = 16  # rows that insertion sort puts in order before runs are merged
FEW = 64  # rows under which eight tables of digits are not worth their counting


@helper
def _ordered(bits):  # type: ignore[no-untyped-def]
    """An integer that orders like the float32 with these (int32) bits; -0 equals 0."""
    wide = np.int64(bits)
    return wide if wide >= 0 else -(wide & 0x7FFFFFFF)


@helper
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


@helper
def _radix_sort(rows, spare, low, high, keys, counts):  # type: ignore[no-untyped-def]
    """Stable sort of ``rows[low:high]`` by key, digit by digit of 8 bits; ``counts`` is (8, 256) scratch."""
    counts[:] = 0
    for at in range(low, high):
        key = keys[rows[at]]
        for digit in range(8):
            counts[digit, (key >> (8 * digit)) & 255] += 1
    for digit in range(8):
        shift, flip = 8 * digit, 128 if digit == 7 else 0  # negative keys come first
        if counts[digit, (keys[rows[low]] >> shift) & 255] == high - low:
            continue  # all rows have the same digit
        place = low
        for value in range(256):
            count = counts[digit, value ^ flip]
            counts[digit, value ^ flip] = place
            place += count
        for at in range(low, high):
            spare[at] = rows[at]
        for at in range(low, high):
            row = spare[at]
            value = (keys[row] >> shift) & 255
            rows[counts[digit, value]] = row
            counts[digit, value] += 1


@helper
def _merge_sort(rows, spare, low, high, keys, rank, boxes):  # type: ignore[no-untyped-def]
    """Sort of ``rows[low:high]`` by `_before`; quick where they are nearly in order."""
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
            for at in range(start, middle):
                spare[at] = rows[at]
            left, right, at = start, middle, start
            while left < middle:
                if right < end and _before(keys, rank, boxes, rows[right], spare[left]):
                    rows[at] = rows[right]
                    right += 1
                else:
                    rows[at] = spare[left]
                    left += 1
                at += 1
        width *= 2


@kernel
def sort(rows: Ints, starts: Ints, keys: Ints, rank: Floats, boxes: ShortFloats2) -> None:
    """Sorts every stretch of rows from one start to the next by key, falling rank, box, row number.

    Args:
        rows: (N,) row numbers, put in order in place.
        starts: (S + 1,) where the stretches start, and the end of the last.
        keys: By row number, as the next two.
        rank: See above.
        boxes: (., 4)
    """
    spare = np.empty(len(rows), np.int64)
    counts = np.empty((8, 256), np.int64)
    for number in range(len(starts) - 1):
        low, high = starts[number], starts[number + 1]
        if high - low > FEW:
            _radix_sort(rows, spare, low, high, keys, counts)
        _merge_sort(rows, spare, low, high, keys, rank, boxes)  # among equal keys, if sorted before


@kernel
def gather(
    rows: Ints,
    offsets: Ints,
    image_id: Ints,
    class_id: ShortInts,
    boxes: ShortFloats2,
    score: ShortFloats,
    rank: Floats,
    image_out: Ints,
    class_out: ShortInts,
    boxes_out: Floats2,
    score_out: ShortFloats,
    rank_out: Floats,
    teacher_out: Ints,
) -> None:
    """Brings the columns of T tables, which start at ``offsets`` (T + 1,), into the order of ``rows`` (N,)."""
    for at in range(len(rows)):
        row = rows[at]
        image_out[at], class_out[at] = image_id[row], class_id[row]
        score_out[at], rank_out[at] = score[row], rank[row]
        for side in range(4):
            boxes_out[at, side] = boxes[row, side]
        teacher = 0
        while offsets[teacher + 1] <= row:
            teacher += 1
        teacher_out[at] = teacher


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


@kernel
def first_broken(boxes: ShortFloats2, score: ShortFloats, rank: Floats) -> int:
    """First row that is not a finite box with area, a score in [0, 1] and a finite rank; -1 if none."""
    for row in range(len(score)):
        width = np.float64(boxes[row, 2]) - np.float64(boxes[row, 0])
        height = np.float64(boxes[row, 3]) - np.float64(boxes[row, 1])
        # comparing NaN is false; inf - inf is NaN, and inf - x is not finite
        sound = width > 0 and height > 0 and np.isfinite(width) and np.isfinite(height)
        sound = sound and score[row] >= 0 and score[row] <= 1 and np.isfinite(rank[row])
        if not sound:
            return row
    return -1


@helper
def _first_image(image_id, next_row, offsets):  # type: ignore[no-untyped-def]
    """The lowest image id that any table has not yet given."""
    image = np.int64(0x7FFFFFFFFFFFFFFF)
    for teacher in range(len(next_row)):
        if next_row[teacher] < offsets[teacher + 1]:
            image = min(image, image_id[next_row[teacher]])
    return image


@kernel
def by_image(
    image_id: Ints,
    class_id: ShortInts,
    score: ShortFloats,
    rank_bits: ShortInts,
    offsets: Ints,
    skip_below: float,
    rows: Ints,
    starts: Ints,
    keys: Ints,
) -> int:
    """Merges T tables, each sorted by image, so that the rows of an image lie together.

    Args:
        image_id: (N,) the tables one after the other.
        class_id: (N,)
        score: (N,)
        rank_bits: (N,) the bits of the ranks in float32.
        offsets: (T + 1,) first row of every table.
        skip_below: Rows with a score below it are left out.
        rows: (N,) written: the rows, image by image.
        starts: (N + 1,) written: the first place of every image, and the end.
        keys: (N,) written: orders the rows of an image by class and falling rank.

    Returns:
        The number of images.
    """
    next_row = offsets[:-1].copy()
    filled, seen, images = 0, 0, 0
    while seen < len(image_id):
        image = _first_image(image_id, next_row, offsets)
        starts[images] = filled
        images += 1
        for teacher in range(len(next_row)):
            row = next_row[teacher]
            while row < offsets[teacher + 1] and image_id[row] == image:
                keys[row] = (np.int64(class_id[row]) << 32) | (0x7FFFFFFF - _ordered(rank_bits[row]))
                if np.float64(score[row]) >= skip_below:
                    rows[filled] = row
                    filled += 1
                row += 1
            seen += row - next_row[teacher]
            next_row[teacher] = row
    starts[images] = filled
    return images


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
def provenance(
    rows: Ints,
    members: Ints2,
    member_score: ShortFloats,
    image_id: Ints,
    boxes: ShortFloats2,
    score: ShortFloats,
    class_id: ShortInts,
    spread: ShortFloats,
    image_out: Ints,
    boxes_out: ShortFloats2,
    score_out: ShortFloats,
    class_out: ShortInts,
    spread_out: ShortFloats,
    mask_out: Ints,
    scores_out: ShortFloats2,
) -> None:
    """Brings fused boxes into the order of ``rows`` (M,) and says who is in them.

    Args:
        rows: The fused box at each place.
        members: (M, T) row of each teacher in it, -1 where silent.
        member_score: (N,) scores of the rows.
        image_id: (M,) and so on: the columns.
        boxes: (M, 4)
        score: (M,)
        class_id: (M,)
        spread: (M,)
        image_out: The columns in the new order.
        boxes_out: See above.
        score_out: See above.
        class_out: See above.
        spread_out: See above.
        mask_out: (M,) bit mask of the teachers.
        scores_out: (M, T) their scores, NaN where silent.
    """
    for at in range(len(rows)):
        row = rows[at]
        image_out[at], score_out[at], class_out[at] = image_id[row], score[row], class_id[row]
        spread_out[at] = spread[row]
        for side in range(4):
            boxes_out[at, side] = boxes[row, side]
        mask = np.int64(0)
        for teacher in range(members.shape[1]):
            member = members[row, teacher]
            if member >= 0:
                mask |= np.int64(1) << teacher
                scores_out[at, teacher] = member_score[member]
            else:
                scores_out[at, teacher] = np.nan
        mask_out[at] = mask


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
