"""What all decoders share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model_zoo.bundle import InputSpec

Outputs = Mapping[str, NDArray[Any]]
"""Network outputs by name, in the order of the network, batch first."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Decoded boxes of one image before non-maximum suppression.

    Attributes:
        boxes: (N, 4) float32 x1 y1 x2 y2 in network-input pixels.
        score: (N,) float32.
        class_id: (N,) integers.
    """

    boxes: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int32]

    @classmethod
    def none(cls) -> Candidates:
        """Of an image on which nothing was found."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    def __getitem__(self, rows: Any) -> Candidates:
        """Selects rows with a slice, a mask or an index array."""
        return Candidates(self.boxes[rows], self.score[rows], self.class_id[rows])


class Decoder(Protocol):
    """Turns the outputs of one forward pass into candidates."""

    def __init__(self, spec: InputSpec, classes: int) -> None:
        """Prepares for one input size and number of classes."""

    def __call__(self, outputs: Outputs, floor: float) -> list[Candidates]:
        """One entry per image of the batch, scores at or above ``floor``."""

    @staticmethod
    def classes_in(outputs: Outputs, spec: InputSpec) -> int | None:
        """Number of classes if the shapes are of this layout, else None.

        `UNKNOWN` where the layout does not tell.
        """


UNKNOWN = -1


def cells(length: int, stride: int) -> int:
    """Grid cells along a side: strided convolutions with padding round up."""
    return -(-length // stride)


def grid(
    spec: InputSpec, strides: Sequence[int], offset: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Anchor points of a feature pyramid, level by level, rows first.

    Args:
        spec: Input size.
        strides: Network pixels per cell of each level.
        offset: Position within the cell (0 = corner, 0.5 = centre).

    Returns:
        (A, 2) x y in cells and (A, 1) stride in pixels, float32.
    """
    points, steps = [], []
    for stride in strides:
        rows, columns = cells(spec.height, stride), cells(spec.width, stride)
        y, x = np.mgrid[:rows, :columns]
        points.append(np.stack([x.ravel(), y.ravel()], axis=1) + offset)
        steps.append(np.full((rows * columns, 1), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(steps).astype(np.float32)


def anchors(spec: InputSpec, strides: Sequence[int]) -> int:
    """Number of anchor points of a pyramid."""
    return sum(cells(spec.height, stride) * cells(spec.width, stride) for stride in strides)


def centre_to_corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) cx cy w h to x1 y1 x2 y2."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def best_class(probabilities: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The most probable class of each row and its probability.

    One class a box: letting every class above the floor claim a box of its own
    gains 0.4 to 1.1 AP with small networks, but only through many doubtful
    second guesses on one place, which are no ground for a pseudo-label, and the
    figures that these networks are known by are measured this way.

    Args:
        probabilities: (N, C).
    """
    class_id = probabilities.argmax(axis=1)
    best = np.take_along_axis(probabilities, class_id[:, None], axis=1)[:, 0]
    return class_id.astype(np.int32), best.astype(np.float32)
