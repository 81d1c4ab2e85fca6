"""Understanding the JSON that a detection service answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo.adapters.decoders.base import Candidates
from model_zoo.adapters.service import Service


class BadAnswerError(Exception):
    """An answer that cannot be understood; the message is the reason."""


def results_of(answer: Any, service: Service, images: int) -> list[Any]:
    """The answer cut into one result an image.

    Raises:
        BadAnswerError: There are not as many as images.
    """
    if service.response.tensors is not None:
        return [_columns(_at(answer, service.response.tensors))]
    if service.response.results is None:
        return [answer]
    results = _at(answer, service.response.results)
    if not isinstance(results, list) or len(results) != images:
        found = f"{len(results)} results" if isinstance(results, list) else f"a {type(results).__name__}"
        raise BadAnswerError(f"{found} at {service.response.results!r} for {images} images")
    return results


def candidates_of(
    result: Any, service: Service, vocabulary: Sequence[str], size: tuple[int, int]
) -> Candidates:
    """One image's detections, in pixels of the image that was sent.

    Args:
        result: Its part of the answer.
        service: Where things stand.
        vocabulary: Class names.
        size: Width and height of the image that was sent.

    Raises:
        BadAnswerError: Something is missing, not a number, or of another length.
        UserError: A class outside the vocabulary, where that is an error.
    """
    if result is None or (isinstance(result, dict) and result.get("error")):
        reason = result["error"] if isinstance(result, dict) else "null"
        raise BadAnswerError(f"the service says: {str(reason)[:200]}")
    boxes, scores, labels = _three(result, service)
    rows = np.array([[_number(value, "box") for value in box] for box in boxes], np.float64).reshape(-1, 4)
    score = np.array([_number(value, "score") for value in scores], np.float64) / service.score_scale
    if ((score < 0) | (score > 1)).any():
        raise BadAnswerError(f"a score of {score[(score < 0) | (score > 1)][0]:g}, not in 0..1")
    class_id = np.array([_class_of(label, service, vocabulary) for label in labels], np.int32)
    known = class_id >= 0
    corners = _corners(rows, service, size).astype(np.float32)
    return Candidates(corners[known], score[known].astype(np.float32), class_id[known])


def _three(result: Any, service: Service) -> tuple[list[Any], list[Any], list[Any]]:
    where = service.response
    if where.objects is not None:
        entries = _list(result, where.objects)
        boxes = [_box(entry, where.boxes) for entry in entries]
        return (
            boxes,
            [_at(entry, where.scores) for entry in entries],
            [_at(entry, where.labels) for entry in entries],
        )
    if isinstance(where.boxes, list):
        sides = [_list(result, path) for path in where.boxes]
        if len({len(side) for side in sides}) > 1:
            raise BadAnswerError("the four columns of the boxes have different lengths")
        boxes = [list(box) for box in zip(*sides, strict=True)]
    else:
        boxes = _list(result, where.boxes)
    scores, labels = _list(result, where.scores), _list(result, where.labels)
    if not len(boxes) == len(scores) == len(labels):
        raise BadAnswerError(f"{len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels")
    for box in boxes:
        _four(box)
    return boxes, scores, labels


def _box(entry: Any, where: str | list[str]) -> list[Any]:
    return _four(_at(entry, where) if isinstance(where, str) else [_at(entry, path) for path in where])


def _four(box: Any) -> list[Any]:
    if not isinstance(box, list) or len(box) != 4:
        raise BadAnswerError(f"a box is {str(box)[:60]}, not four numbers")
    return box


def _list(value: Any, path: str) -> list[Any]:
    found = _at(value, path)
    if not isinstance(found, list):
        raise BadAnswerError(f"{path!r} is a {type(found).__name__}, not a list")
    return found


def _at(value: Any, path: str) -> Any:
    for key in path.split(".") if path else []:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadAnswerError(f"the answer has nothing at {path!r}") from None
    return value


def _number(value: Any, what: str) -> float:
    # JSON as Python reads it knows NaN and Infinity
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadAnswerError(f"a {what} holds {str(value)[:40]!r}, not a number")
    return float(value)


def _class_of(label: Any, service: Service, vocabulary: Sequence[str]) -> int:
    if service.labels == "names":
        if label in vocabulary:
            return vocabulary.index(label)
    elif isinstance(label, int | float) and not isinstance(label, bool) and float(label).is_integer():
        if 0 <= label - service.label_offset < len(vocabulary):
            return int(label) - service.label_offset
    else:
        raise BadAnswerError(f"a label is {str(label)[:40]!r}, not a class number")
    if service.unknown_labels == "drop":
        return -1
    raise UserError(
        f"{service.url} answered class {str(label)[:60]!r}, which the class list does not have",
        'Add the teacher with the full class list, or say "unknown_labels": "drop" in its description.',
    )


def _corners(rows: NDArray[np.float64], service: Service, size: tuple[int, int]) -> NDArray[np.float64]:
    rows = rows.copy()
    if service.box_format == "yxyx":
        rows = rows[:, [1, 0, 3, 2]]
    if service.box_format == "cxcywh":
        rows[:, :2] -= rows[:, 2:] / 2
    if service.box_format in ("xywh", "cxcywh"):
        rows[:, 2:] += rows[:, :2]
    return rows * np.array(size * 2) if service.coordinates == "fractions" else rows


def _columns(tensors: Any) -> dict[str, Any]:
    """Named tensors of the KServe v2 protocol as nested lists; a batch axis of one is taken off."""
    columns = {}
    for tensor in tensors if isinstance(tensors, list) else []:
        try:
            data = np.array(tensor["data"], object).reshape(tensor["shape"])
        except (KeyError, TypeError, ValueError):
            raise BadAnswerError(f"tensor {str(tensor)[:80]} has data that are not of its shape") from None
        wanted = 2 if data.ndim >= 2 and data.shape[-1] == 4 and tensor.get("name") != "labels" else 1
        while data.ndim > wanted and data.shape[0] == 1:
            data = data[0]
        columns[str(tensor.get("name"))] = data.tolist()
    return columns
