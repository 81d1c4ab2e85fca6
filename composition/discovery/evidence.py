"""Counts, shares and bounds: what the answers amount to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from composition.discovery.answers import Answers, Floats


@dataclass(frozen=True, slots=True)
class Direction:
    """The evidence of one direction: one class's boxes as questions to the other teacher.

    Attributes:
        boxes: Questions.
        images: Images with a question.
        answered: Questions that got an answer.
        agreed: Questions that were answered with the other class of the pair.
        agreeing_images: Images with such an answer.
        share: Agreed among answered, every image counted once.
        lower: Lower confidence bound of ``share`` (Clopper and Pearson).
        heard: Agreed among all questions, every image counted once.
    """

    boxes: int
    images: int
    answered: int
    agreed: int
    agreeing_images: int
    share: float
    lower: float
    heard: float


def counts(answers: Answers, sizes: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
    """(K, L + 1) tables of class by answer, the last column silence: boxes, images, weights.

    Boxes of one image are not independent (a flock of sheep is one piece of
    luck), so in the table of weights each image counts once for each class
    asked, divided among its boxes.
    """
    shape = (sizes[0], sizes[1] + 1)
    boxes, images, weights = (np.zeros(shape) for _ in range(3))
    if not len(answers.rows):
        return boxes, images, weights
    cell = (answers.asked, answers.answer)
    np.add.at(boxes, cell, 1.0)
    place = np.stack([answers.image_id, answers.asked])
    _, inverse, count = np.unique(place, axis=1, return_inverse=True, return_counts=True)
    np.add.at(weights, cell, 1.0 / count[inverse.reshape(-1)])
    unique = np.unique(np.stack([answers.image_id, *cell]), axis=1)
    np.add.at(images, (unique[1], unique[2]), 1.0)
    return boxes, images, weights


@dataclass(frozen=True, slots=True)
class Side:
    """One direction as tables; see `counts`."""

    answers: Answers
    boxes: Floats
    images: Floats
    weights: Floats

    @classmethod
    def of(cls, answers: Answers, sizes: tuple[int, int]) -> Side:
        """The tables for the numbers of classes of who asks and who answers."""
        return cls(answers, *counts(answers, sizes))

    @property
    def said(self) -> Floats:
        """Weights without silence, (K, L)."""
        return self.weights[:, :-1]

    def direction(self, asked: int, answer: int, bound: float) -> Direction:
        """The evidence of one pair of classes."""
        agreed, answered = self.said[asked, answer], self.said[asked].sum()
        total = self.weights[asked].sum()
        return Direction(
            boxes=int(self.boxes[asked].sum()),
            images=len(np.unique(self.answers.image_id[self.answers.asked == asked])),
            answered=int(self.boxes[asked, :-1].sum()),
            agreed=int(self.boxes[asked, answer]),
            agreeing_images=int(self.images[asked, answer]),
            share=float(agreed / answered) if answered else 0.0,
            lower=lower_bound(agreed, answered, bound),
            heard=float(agreed / total) if total else 0.0,
        )


def lower_bound(agreed: float, count: float, level: float = 0.95) -> float:
    """One-sided lower confidence bound of a share (Clopper and Pearson, 1934).

    Args:
        agreed: Successes; need not be whole, the beta distribution is continuous.
        count: Trials.
        level: Confidence.

    Example:
        >>> round(lower_bound(10, 10), 3)
        0.741
    """
    if agreed <= 0:
        return 0.0
    return float(betaincinv(agreed, max(count - agreed, 0.0) + 1, 1 - level))


def p_value_of(agreed: float, count: float, share: float) -> float:
    """Chance of at least so much agreement if the true share were only ``share``."""
    return float(betainc(agreed, max(count - agreed, 0.0) + 1, share)) if agreed > 0 else 1.0


def accept(p_values: Floats, false_share: float) -> NDArray[np.bool_]:
    """Benjamini and Hochberg (1995): which hypotheses to accept among all that were tested."""
    ordered = np.sort(p_values)
    passes = np.flatnonzero(ordered <= false_share * np.arange(1, len(ordered) + 1) / len(ordered))
    return p_values <= (ordered[passes[-1]] if len(passes) else -1.0)
