"""Showing a picture a second time, a little smaller and elsewhere.

A detector that is right finds the same box again; one that guesses does not. That
a box stays where it is when its detector is disturbed says much about accuracy
without a label (Yang et al., "Bounding Box Stability against Feature Dropout
Reflects Detector Generalization across Environments", ICLR 2024, disturb the
features; here the picture is disturbed, which any black box allows). A mirror
would do the same but for classes that it changes, such as digits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections

BEFORE, AFTER = 0.10, 0.05
"""Border on the left and top, and on the right and bottom, as shares of the picture's sides."""
GREY = 114  # what detectors are used to see beyond a picture


def bordered(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture with a grey border: once fitted to the detector, everything in it is smaller and shifted.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H', W', 3) uint8 with H' about 1.15 H.
    """
    height, width = image.shape[:2]
    left, top = _offsets(np.array([width]), np.array([height]))[0].tolist()
    canvas = np.full(
        (height + top + round(AFTER * height), width + left + round(AFTER * width), 3), GREY, np.uint8
    )
    canvas[top : top + height, left : left + width] = image
    return canvas


def without_border(found: Detections, widths: NDArray[np.int64], heights: NDArray[np.int64]) -> Detections:
    """Detections on `bordered` pictures in the pixels of the pictures themselves.

    Args:
        found: Rows whose ``image_id`` is an index into the two arrays.
        widths: (M,) widths in pixels, without the border.
        heights: (M,) heights.

    Returns:
        The rows, clipped to their pictures; those wholly in the border are dropped.
    """
    offset = np.tile(_offsets(widths, heights), 2)[found.image_id]
    moved = replace(found, boxes=(found.boxes - offset).astype(np.float32))
    return table.clip(moved, widths, heights)


def _offsets(widths: NDArray[np.int64], heights: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, 2) pixels by which the border moves a picture right and down."""
    sides = np.stack([widths, heights], axis=1)
    return np.asarray(np.rint(BEFORE * sides), np.int64)
