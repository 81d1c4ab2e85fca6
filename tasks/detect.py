"""Showing a detector a batch of images, in one of the ways to look at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition import zoom
from composition.detections import Detections
from composition.mirror import turned_back
from composition.second_look import bordered, without_border
from model_zoo.adapters.base import Detector, Image
from tasks import unanswered
from tasks.image_index import ImageRecord
from tasks.teachers import Look


def detect(
    detector: Detector,
    records: Sequence[ImageRecord],
    images: Sequence[Image],
    look: Look,
    most: int,
) -> tuple[Detections, dict[int, str]]:
    """Runs a detector.

    Args:
        detector: The detector.
        records: The images' entries in their index.
        images: (H, W, 3) uint8 RGB, one each.
        look: How they are shown; see `tasks.teachers.Look`.
        most: Boxes per image that enlarged parts are cut to, the best by score.

    Returns:
        Detections by image id in pixels of the images, and the images that got no answer with the reasons.
    """
    ids = np.array([record.image_id for record in records], np.int64)
    sizes = np.array([(record.width, record.height) for record in records], np.int64)
    if look == "second":
        found, reasons = unanswered.ask(detector, [bordered(image) for image in images])
        found = without_border(found, sizes[:, 0], sizes[:, 1])
    elif look == "mirror":
        found, reasons = unanswered.ask(detector, [np.ascontiguousarray(image[:, ::-1]) for image in images])
        found = turned_back(found, sizes[:, 0])
    elif look != "first":
        found, reasons = _enlarged(detector, images, sizes, zoom.SHARES[look], most)
    else:
        found, reasons = unanswered.ask(detector, images)
    silent = {records[position].image_id: reason for position, reason in reasons.items()}
    return table.with_image_ids(found, ids), silent


def _enlarged(
    detector: Detector, images: Sequence[Image], sizes: NDArray[np.int64], share: float, most: int
) -> tuple[Detections, dict[int, str]]:
    """One part of all images after the other: a batch of parts is no larger than one of images."""
    answers = []
    for window in zoom.windows(sizes, share):
        pairs = zip(images, window.tolist(), strict=True)
        parts = [np.ascontiguousarray(image[y1:y2, x1:x2]) for image, (x1, y1, x2, y2) in pairs]
        answers.append(unanswered.ask(detector, parts))
    reasons = {position: why for _, silent in answers for position, why in silent.items()}
    found = zoom.joined([rows for rows, _ in answers], sizes, share, most)
    return found[~np.isin(found.image_id, list(reasons))], reasons
