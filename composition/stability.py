"""How much boxes move when the image is changed in a way that should not matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections


def flip_spread(found: Detections, mirrored: Detections, widths: NDArray[np.int64]) -> NDArray[np.float32]:
    """Instability of boxes under a horizontal flip (ours): 1 - IoU with what is seen in the mirror.

    Every box is held against the box of its class that it overlaps most after
    the mirrored image is turned back; several may share one. A box with no
    such box vanishes under the flip: its spread is 1, the largest.

    Args:
        found: N detections on the images; ``image_id`` indexes ``widths``.
        mirrored: Detections on the same images flipped left to right, in their pixels.
        widths: (M,) image widths in pixels.

    Returns:
        (N,) float32 in [0, 1].
    """
    back = mirrored.boxes.astype(np.float64)
    width = np.asarray(widths, np.float64)[mirrored.image_id]
    back[:, 0], back[:, 2] = width - mirrored.boxes[:, 2], width - mirrored.boxes[:, 0]
    best = np.zeros(len(found))
    for image in np.unique(found.image_id):
        mine = np.flatnonzero(found.image_id == image)
        other = np.flatnonzero(mirrored.image_id == image)
        same = found.class_id[mine][:, None] == mirrored.class_id[other][None]
        overlap = _iou(found.boxes[mine].astype(np.float64), back[other])
        best[mine] = np.where(same, overlap, 0).max(axis=1, initial=0)
    return (1 - best).astype(np.float32)


def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) IoU of boxes with an area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared))
