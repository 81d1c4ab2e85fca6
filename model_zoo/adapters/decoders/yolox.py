"""YOLOX: one row per anchor point, box offsets raw, objectness times class.

Ge et al. 2021, "YOLOX: Exceeding YOLO Series in 2021"; layout of its ONNX
export without ``--decode_in_inference``: (B, A, 5 + C) with x y w h objectness
and C class probabilities (both after the sigmoid), centre = (cell + xy) *
stride, size = exp(wh) * stride.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_zoo.adapters.decoders.base import Candidates, Outputs, anchors, best_class, centre_to_corners, grid
from model_zoo.bundle import InputSpec

STRIDES = (8, 16, 32)


class Yolox:
    """See the module."""

    def __init__(self, spec: InputSpec, classes: int) -> None:
        self._cells, self._stride = grid(spec, STRIDES, offset=0)

    @staticmethod
    def classes_in(outputs: Outputs, spec: InputSpec) -> int | None:
        """C of (B, A, 5 + C), if A is the number of anchor points."""
        shapes = [output.shape for output in outputs.values()]
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][1] != anchors(spec, STRIDES):
            return None
        return shapes[0][2] - 5 if shapes[0][2] > 5 else None

    def __call__(self, outputs: Outputs, floor: float) -> list[Candidates]:
        """Decodes each image of the batch."""
        (batch,) = outputs.values()
        return [self._decode(rows, floor) for rows in batch]

    def _decode(self, rows: NDArray[Any], floor: float) -> Candidates:
        # class probabilities are at most 1: objectness alone rules most anchor points out
        likely = np.flatnonzero(rows[:, 4] >= floor)
        rows = rows[likely].astype(np.float32, copy=False)
        class_id, probability = best_class(rows[:, 5:])
        score = rows[:, 4] * probability
        cell, stride, raw = self._cells[likely], self._stride[likely], rows[:, :4]
        with np.errstate(over="ignore"):  # an absurd size becomes inf and is dropped later
            boxes = np.concatenate([(cell + raw[:, :2]) * stride, np.exp(raw[:, 2:]) * stride], axis=1)
        return Candidates(centre_to_corners(boxes), score, class_id)[score >= floor]
