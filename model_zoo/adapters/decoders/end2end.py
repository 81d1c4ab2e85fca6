"""Networks that end in finished detections (their suppression is inside, or they need none).

Layouts understood, boxes as x1 y1 x2 y2 in network pixels:

- (B, N, 6): box, score, class (ultralytics exports with ``nms=True``, YOLOv10, YOLO26);
- (M, 7): image, box, class, score (YOLOv7's ONNX export), for one image a call;
- boxes (B, N, 4), scores (B, N), classes (B, N) in any order, with or without
  a count of valid rows (B,) or (B, 1) (TensorRT's NMS plugin, DETR exports),
  or without the batch axis (torchvision exports);
- boxes and scores (B, N, 5) with classes (B, N) (mmdeploy).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_zoo.adapters.decoders.base import UNKNOWN, Candidates, Outputs
from model_zoo.bundle import InputSpec

_CLASS_WORDS = ("label", "class", "cls")
_COUNT_WORDS = ("num", "count", "valid")


class End2End:
    """See the module."""

    def __init__(self, spec: InputSpec, classes: int) -> None:
        pass

    @staticmethod
    def classes_in(outputs: Outputs, spec: InputSpec) -> int | None:
        """`UNKNOWN` if the shapes are of one of the layouts: they do not tell the number of classes."""
        if len(outputs) == 1:
            (shape,) = (output.shape for output in outputs.values())
            rows = len(shape) == 3 and shape[2] == 6
            return UNKNOWN if rows or (len(shape) == 2 and shape[1] == 7) else None
        return UNKNOWN if _columns(outputs) else None

    def __call__(self, outputs: Outputs, floor: float) -> list[Candidates]:
        """Rows at or above the floor; rows that only fill the array score below it."""
        if len(outputs) == 1:
            (rows,) = outputs.values()
            if rows.ndim == 3:
                images = [(image[:, :4], image[:, 4], image[:, 5]) for image in rows]
            else:
                images = [(rows[:, 1:5], rows[:, 6], rows[:, 5])]
        else:
            columns = _columns(outputs)
            assert columns  # the shapes are checked when the network is opened
            boxes, score, label, valid = columns
            images = [
                (boxes[index, :count], score[index, :count], label[index, :count])
                for index, count in enumerate(valid.tolist())
            ]
        return [_select(*image, floor) for image in images]


def _select(boxes: NDArray[Any], score: NDArray[Any], label: NDArray[Any], floor: float) -> Candidates:
    rows = score >= floor
    return Candidates(
        boxes[rows].astype(np.float32), score[rows].astype(np.float32), label[rows].astype(np.int32)
    )


def _columns(outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """(B, N, 4) boxes, (B, N) scores, (B, N) classes and (B,) valid rows, found by shape, type and name."""
    named = dict(outputs)
    wide = [name for name, output in named.items() if output.ndim in (2, 3) and output.shape[-1] in (4, 5)]
    if not wide:
        return None
    # the scores of 4 boxes are 4 wide too, but have one axis less
    boxes = named.pop(max(wide, key=lambda name: named[name].ndim))
    if boxes.ndim == 2:  # no batch axis
        boxes, named = boxes[None], {name: output[None] for name, output in named.items()}
    count_name = next((name for name in named if any(word in name.lower() for word in _COUNT_WORDS)), None)
    valid = np.full(len(boxes), boxes.shape[1])
    if count_name is not None and named[count_name].size == len(boxes):
        valid = named.pop(count_name).reshape(-1).astype(np.int64)
    scores = [boxes[..., 4]] if boxes.shape[2] == 5 else []
    vectors = {
        name: output.reshape(output.shape[:2]) for name, output in named.items() if _vector(output, boxes)
    }
    if len(vectors) != len(named) or len(vectors) != 2 - len(scores):
        return None
    # classes are whole numbers or named so; otherwise scores come first, as everywhere
    ordered = sorted(vectors, key=lambda name: _is_class(name, vectors[name]))
    columns = [*scores, *(vectors[name] for name in ordered)]
    return boxes[..., :4], columns[0], columns[1], valid


def _vector(output: NDArray[Any], boxes: NDArray[Any]) -> bool:
    return output.shape in {boxes.shape[:2], (*boxes.shape[:2], 1)}


def _is_class(name: str, values: NDArray[Any]) -> bool:
    return values.dtype.kind in "iu" or any(word in name.lower() for word in _CLASS_WORDS)
