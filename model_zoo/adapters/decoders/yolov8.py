"""The ultralytics export layout (YOLOv8 and later detectors with the same head).

One output (B, 4 + C, A), or transposed (B, A, 4 + C): cx cy w h in network
pixels, then C class probabilities after the sigmoid; no objectness.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_zoo.adapters.decoders.base import Candidates, Outputs, anchors, best_class, centre_to_corners
from model_zoo.bundle import InputSpec

PYRAMIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))


class Yolov8:
    """See the module."""

    def __init__(self, spec: InputSpec, classes: int) -> None:
        self._columns = 4 + classes

    @staticmethod
    def classes_in(outputs: Outputs, spec: InputSpec) -> int | None:
        """C, if one of the two axes has as many entries as the pyramid has anchor points."""
        shapes = [output.shape for output in outputs.values()]
        if len(shapes) != 1 or len(shapes[0]) != 3:
            return None
        _, first, second = shapes[0]
        points = {anchors(spec, strides) for strides in PYRAMIDS}
        columns = first if second in points else second if first in points else 0
        return columns - 4 if columns > 4 else None

    def __call__(self, outputs: Outputs, floor: float) -> list[Candidates]:
        """Decodes each image of the batch."""
        (batch,) = outputs.values()
        columns_first = batch.shape[1] == self._columns
        return [self._decode(image if columns_first else image.T, floor) for image in batch]

    @staticmethod
    def _decode(columns: NDArray[Any], floor: float) -> Candidates:
        likely = np.flatnonzero((columns[4:] >= floor).any(axis=0))
        class_id, score = best_class(columns[4:, likely].T)
        boxes = columns[:4, likely].T.astype(np.float32)
        return Candidates(centre_to_corners(boxes), score, class_id)
