"""The inner loop of average precision.

Import this module late, it brings numba; see `composition.fusion.compiled`.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from composition.fusion.compiled import Floats, Floats2, Ints, Ints2, helper, kernel

Bytes2 = Annotated[NDArray[np.uint8], "uint8[:, ::1]"]

_TINY = float(np.spacing(1))  # pycocotools keeps precision defined with it


@helper
def _area(precision, recall, steps, recalls):  # type: ignore[no-untyped-def]
    """Mean over the recalls of the best precision at that recall or a higher one."""
    for step in range(steps - 1, 0, -1):
        precision[step - 1] = max(precision[step - 1], precision[step])
    step, total = 0, 0.0
    for wanted in recalls:
        while step < steps and recall[step] < wanted:
            step += 1
        if step == steps:
            break
        total += precision[step]
    return total / len(recalls)


@kernel
def curve_areas(
    weights: Ints2, image: Ints, outcome: Bytes2, objects: Ints, recalls: Floats, area: Floats2
) -> None:
    """Mean interpolated precision at the given recalls, written into ``area``.

    Args:
        weights: (R, I) copies of each image.
        image: (D,) image of each detection, by falling score.
        outcome: (T, D) 0 wrong, 1 right, 2 ignored.
        objects: (R,) labelled objects in each sample.
        recalls: Ascending recalls in [0, 1].
        area: (R, T) output; NaN without objects.
    """
    precision = np.empty(len(image))
    recall = np.empty(len(image))
    for sample in range(weights.shape[0]):
        for threshold in range(outcome.shape[0]):
            if objects[sample] == 0:
                area[sample, threshold] = np.nan
                continue
            right, wrong, steps = 0, 0, 0
            for row in range(len(image)):
                copies = weights[sample, image[row]]
                if copies == 0 or outcome[threshold, row] == 2:
                    continue
                if outcome[threshold, row] == 1:
                    # only here does the recall rise; of equal copies the last has the highest precision
                    right += copies
                    recall[steps] = right / objects[sample]
                    precision[steps] = right / (wrong + right + _TINY)
                    steps += 1
                else:
                    wrong += copies
            area[sample, threshold] = _area(precision, recall, steps, recalls)
