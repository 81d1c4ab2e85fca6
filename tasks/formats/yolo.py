"""YOLO as Ultralytics lays it out: ``data.yaml`` and a text file of boxes an image.

The form has no ignore regions: they are left out, and so become background.
Scores are a sixth column, which viewers read and trainers refuse.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from tasks.formats.labelled import LabelledImage, LabelledSet

FILE = "data.yaml"
_HEADER = """\
# Pseudo-labels of detcompose. Trainers insist on a set to validate on: replace 'val' by one with labels
# made by people, for a detector that is measured on its own pseudo-labels looks better than it is.
"""


def write(labelled: LabelledSet, folder: Path, *, scores: bool = False) -> None:
    """Writes ``data.yaml`` and ``labels/train/<image>.txt``, an empty one for an image without a box."""
    document = {
        "path": ".",
        "train": "images/train",
        "val": "images/train",
        "names": dict(enumerate(labelled.classes)),
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (folder / FILE).write_text(_HEADER + text)
    for image in labelled:
        path = folder / "labels" / "train" / PurePosixPath(image.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(_lines(image, scores)))


def _lines(image: LabelledImage, scores: bool) -> list[str]:
    kept = ~image.ignore
    size = np.array([image.width, image.height] * 2, np.float64)
    # 8 digits of a fraction are a thousandth of a pixel in the widest image
    corners = np.clip(image.boxes[kept] / size, 0, 1)
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    lines = []
    for class_id, score, values in zip(
        image.class_id[kept].tolist(),
        image.score[kept].tolist(),
        np.hstack([centres, sides]).tolist(),
        strict=True,
    ):
        numbers = [f"{value:.8f}" for value in values]
        numbers += [f"{1.0 if score != score else score:.6f}"] if scores else []
        lines.append(f"{class_id} {' '.join(numbers)}\n")
    return lines
