"""NanoDet-m: each side of a box is a distribution over distances.

Li et al. 2020, "Generalized Focal Loss"; layout of RangiLyu/nanodet's first
ONNX exports: per level (stride 8, 16, 32) one output (B, cells, C) of class
probabilities (after the sigmoid) and one (B, cells, 4 * (n + 1)) of raw
distribution logits; distance = sum(i * softmax_i) * stride, measured from the
centre of the cell to left, top, right, bottom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_zoo.adapters.decoders.base import Candidates, Outputs, best_class, cells, grid
from model_zoo.bundle import InputSpec

STRIDES = (8, 16, 32)
BINS = 8


class NanoDet:
    """See the module."""

    def __init__(self, spec: InputSpec, classes: int) -> None:
        self._cells, self._stride = grid(spec, STRIDES, offset=0.5)
        self._spec = spec

    @staticmethod
    def classes_in(outputs: Outputs, spec: InputSpec) -> int | None:
        """C, if every level has one output of classes and one of distances."""
        pairs = _pairs(outputs, spec)
        counts = {classes.shape[2] for classes, _ in pairs} if pairs else set()
        return counts.pop() if len(counts) == 1 else None

    def __call__(self, outputs: Outputs, floor: float) -> list[Candidates]:
        """Decodes each image of the batch."""
        pairs = _pairs(outputs, self._spec)
        assert pairs  # the shapes are checked when the network is opened
        scores = np.concatenate([classes for classes, _ in pairs], axis=1)
        sides = np.concatenate([distances for _, distances in pairs], axis=1)
        return [self._decode(*image, floor) for image in zip(scores, sides, strict=True)]

    def _decode(self, scores: NDArray[Any], sides: NDArray[Any], floor: float) -> Candidates:
        class_id, score = best_class(scores)
        likely = np.flatnonzero(score >= floor)
        logits = sides[likely].astype(np.float32, copy=False).reshape(-1, 4, BINS)
        weight = np.exp(logits - logits.max(axis=2, keepdims=True))
        bins = np.arange(BINS, dtype=np.float32)
        distance = (weight @ bins) / weight.sum(axis=2) * self._stride[likely]
        centre = self._cells[likely] * self._stride[likely]
        boxes = np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], axis=1)
        return Candidates(boxes, score[likely], class_id[likely])


def _pairs(outputs: Outputs, spec: InputSpec) -> list[tuple[NDArray[Any], NDArray[Any]]] | None:
    """Outputs of each level as (classes, distances), told apart by shape, then by name."""
    if len(outputs) != 2 * len(STRIDES) or any(output.ndim != 3 for output in outputs.values()):
        return None
    pairs = []
    for stride in STRIDES:
        count = cells(spec.height, stride) * cells(spec.width, stride)
        level = [(name, output) for name, output in outputs.items() if output.shape[1] == count]
        # with 32 classes both have the same shape: distances are then the one not named after classes
        level.sort(key=lambda item: (item[1].shape[2] == 4 * BINS, "cls" not in item[0]))
        if len(level) != 2 or level[1][1].shape[2] != 4 * BINS:
            return None
        pairs.append((level[0][1], level[1][1]))
    return pairs
