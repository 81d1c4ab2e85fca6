"""FastestDet: one anchor-free level, softmax classes.

Layout of dog-qiuqiu/FastestDet's ONNX export: (B, 5 + C, H, W) with objectness
(after the sigmoid), raw x y w h, class probabilities (after the softmax);
centre = (cell + tanh(xy)) / grid, size = sigmoid(wh) of the image, score =
objectness^0.6 * class^0.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_zoo.adapters.decoders.base import Candidates, Outputs, best_class, centre_to_corners
from model_zoo.bundle import InputSpec


class FastestDet:
    """See the module."""

    def __init__(self, spec: InputSpec, classes: int) -> None:
        self._size = np.array([spec.width, spec.height], np.float32)

    @staticmethod
    def classes_in(outputs: Outputs, spec: InputSpec) -> int | None:
        """C of (B, 5 + C, H, W)."""
        shapes = [output.shape for output in outputs.values()]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] <= 5:
            return None
        return int(shapes[0][1]) - 5

    def __call__(self, outputs: Outputs, floor: float) -> list[Candidates]:
        """Decodes each image of the batch."""
        (batch,) = outputs.values()
        return [self._decode(image, floor) for image in batch]

    def _decode(self, image: NDArray[Any], floor: float) -> Candidates:
        rows, columns = image.shape[1:]
        flat: NDArray[Any] = image.reshape(len(image), -1)
        # a class probability is at most 1, so score <= objectness^0.6
        likely = np.flatnonzero(flat[0] >= floor ** (1 / 0.6))
        flat = flat[:, likely].astype(np.float32, copy=False)
        class_id, probability = best_class(flat[5:].T)
        score = flat[0] ** 0.6 * probability**0.4
        cell = np.stack([likely % columns, likely // columns], axis=1).astype(np.float32)
        raw = flat[1:5].T
        centre = (cell + np.tanh(raw[:, :2])) / np.array([columns, rows], np.float32)
        extent = 0.5 * (1 + np.tanh(0.5 * raw[:, 2:]))  # the sigmoid, without overflow
        boxes = centre_to_corners(np.concatenate([centre * self._size, extent * self._size], axis=1))
        return Candidates(boxes, score, class_id)[score >= floor]
