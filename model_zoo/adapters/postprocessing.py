"""From the candidates of one image to the rows that a detector returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.decoders.base import Candidates
from model_zoo.adapters.nms import nms_per_class
from model_zoo.adapters.preprocessing import Placement
from model_zoo.bundle import OutputSpec

# what enters suppression per image, best first; mmdet's and ultralytics' order of magnitude
MAX_CANDIDATES = 3000


def finish(
    candidates: Candidates,
    placement: Placement,
    output: OutputSpec,
    settings: InferenceSettings,
    classes: int,
) -> Candidates:
    """Suppresses, maps to the original image, clips and cuts to the best.

    Args:
        candidates: Boxes in network pixels.
        placement: Where the image lay.
        output: Overlap for the suppression and offset of the class ids.
        settings: How many detections to keep; the decoder applied the floor.
        classes: Length of the vocabulary.

    Returns:
        Boxes in image pixels, by falling score.

    Raises:
        UserError: A class id outside the vocabulary.
    """
    if output.class_offset:
        candidates = replace(candidates, class_id=candidates.class_id - np.int32(output.class_offset))
    finite = np.isfinite(candidates.boxes).all(axis=1)
    if not finite.all():
        candidates = candidates[finite]
    outside = (candidates.class_id < 0) | (candidates.class_id >= classes)
    if outside.any():
        raise UserError(
            f"the network found class number {candidates.class_id[outside][0]}, "
            f"but its vocabulary has {classes} classes (0 to {classes - 1})",
            "Add the detector again with the full class list.",
        )
    if output.nms_iou is not None:
        groups = np.zeros_like(candidates.class_id) if output.nms_agnostic else candidates.class_id
        kept = nms_per_class(candidates.boxes, candidates.score, groups, output.nms_iou, MAX_CANDIDATES)
    else:
        kept = np.argsort(-candidates.score, kind="stable")
    candidates = candidates[kept]
    boxes = placement.to_image(candidates.boxes)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    rows = np.flatnonzero(has_area)[: settings.max_detections]
    # half precision may round a probability to just above 1
    return Candidates(boxes[rows], np.minimum(candidates.score[rows], 1), candidates.class_id[rows])


def to_table(images: Sequence[Candidates]) -> Detections:
    """The rows of a batch, ``image_id`` = position in the batch, sorted."""
    if not images:
        return detections.empty()
    return detections.sort(
        detections.make(
            np.repeat(np.arange(len(images)), [len(image.score) for image in images]),
            np.concatenate([image.boxes for image in images]),
            np.concatenate([image.score for image in images]),
            np.concatenate([image.class_id for image in images]),
        )
    )
