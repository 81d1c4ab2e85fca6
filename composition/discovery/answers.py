"""Questions and answers: each object that one teacher sees is put to the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one teacher says at each box of another: N questions.

    Attributes:
        image_id: (N,) int64.
        rows: (N,) int64, row of the question in the asking teacher's detections.
        asked: (N,) int64, class of the question.
        score: (N,) float64, score of the question.
        answer: (N,) int64, class of the answer; -1 where there is no box.
        answer_score: (N,) float64, score of the answer; 0 where there is none.
        answer_rows: (N,) int64, row of the answer; -1 where there is none.
    """

    image_id: Ints
    rows: Ints
    asked: Ints
    score: Floats
    answer: Ints
    answer_score: Floats
    answer_rows: Ints


def ask(asking: Detections, answering: Detections, iou: float = 0.5) -> Answers:
    """Puts each object that one teacher sees to another teacher.

    A teacher that puts two classes on one object asks once, with the surer one:
    boxes that overlap a surer box of the same teacher by ``iou`` are left out.

    Args:
        asking: Whose boxes are the questions.
        answering: Whose surest box with IoU >= ``iou`` is the answer.
        iou: The overlap.

    Returns:
        One row per question, by image and falling score.
    """
    parts: list[tuple[Ints, Ints]] = []
    theirs = dict(_by_image(answering))
    nobody = np.empty(0, np.int64)
    for image, rows in _by_image(asking):
        kept = rows[_surest(overlaps(asking.boxes[rows], asking.boxes[rows]) >= iou)]
        other = theirs.get(image, nobody)
        score = np.where(
            overlaps(asking.boxes[kept], answering.boxes[other]) >= iou, answering.score[other], -1.0
        )
        # the last column stands for silence, and rows are by falling score: argmax takes the surest
        column = np.hstack([score, np.full((len(kept), 1), -0.5)]).argmax(axis=1)
        parts.append((kept, np.append(other, -1)[column]))
    rows = np.concatenate([part[0] for part in parts]) if parts else nobody
    answers = np.concatenate([part[1] for part in parts]) if parts else nobody
    silent = answers < 0
    return Answers(
        asking.image_id[rows],
        rows,
        asking.class_id[rows].astype(np.int64),
        asking.score[rows].astype(np.float64),
        np.where(silent, -1, _take(answering.class_id, answers)).astype(np.int64),
        np.where(silent, 0.0, _take(answering.score, answers)).astype(np.float64),
        answers,
    )


def _take(values: NDArray[np.generic], rows: Ints) -> NDArray[np.generic]:
    return values[rows] if len(values) else np.zeros(len(rows), values.dtype)


def _by_image(table: Detections) -> Iterator[tuple[int, Ints]]:
    """Rows of each image by falling score; ties by class and box, whatever the order of the table."""
    x1, y1, x2, y2 = table.boxes.T
    order = np.lexsort((y2, x2, y1, x1, table.class_id, -table.score, table.image_id))
    images, starts = np.unique(table.image_id[order], return_index=True)
    # np.split gives one empty part for an empty table
    yield from zip(images.tolist(), np.split(order, starts[1:]), strict=bool(len(images)))


def _surest(overlapping: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows, by falling score, that no surer kept row overlaps."""
    keep = np.ones(len(overlapping), np.bool_)
    for row in range(len(overlapping)):
        if keep[row]:
            keep[row + 1 :] &= ~overlapping[row, row + 1 :]
    return keep


def overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """IoU of every box of (N, 4) with every box of (M, 4): (N, M) float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.clip(size, 0, None).prod(axis=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b))
    result: Floats = common / (area_a[:, None] + area_b[None] - common)
    return result


def above(answers: Answers, question: float, reply: float) -> Answers:
    """Only the questions from a score on; answers below another score become silence."""
    rows = answers.score >= question
    heard = answers.answer_score[rows] >= reply
    return Answers(
        answers.image_id[rows],
        answers.rows[rows],
        answers.asked[rows],
        answers.score[rows],
        np.where(heard, answers.answer[rows], -1),
        np.where(heard, answers.answer_score[rows], 0.0),
        np.where(heard, answers.answer_rows[rows], -1),
    )
