"""The inner loops that check, order and gather rows.

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
    """Brings the columns of T tables that start at ``offsets`` (T + 1,) into the order of ``rows`` (N,)."""
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
