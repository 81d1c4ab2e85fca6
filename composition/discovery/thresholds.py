"""Scores from which boxes are worth asking about and answers worth hearing, per teacher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composition.discovery.answers import Answers, Floats, Ints, above
from composition.discovery.evidence import counts


def find_thresholds(
    forward: Answers, backward: Answers, sizes: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Scores from which boxes are questions and answers, per teacher.

    Score scales differ between detectors, so no fixed number will do. A class
    has a best partner when each answers the other most; a question is in
    agreement when partners answer each other. Its threshold maximises
    agreements minus the rest (silence included): it lies where the next question
    is as likely to agree as not. That of the answers does so among the questions
    that are answered. Partners and thresholds depend on each other: four rounds.
    """
    everything = (0.0, 0.0)
    images = len(np.union1d(forward.image_id, backward.image_id))
    questions = (_top(forward.score, 2 * images), _top(backward.score, 2 * images))
    replies = (min(questions[0], 0.15), min(questions[1], 0.15))
    if not len(forward.rows) or not len(backward.rows):
        return everything, everything
    for _ in range(4):
        one = counts(above(forward, questions[0], replies[1]), sizes)[0]
        two = counts(above(backward, questions[1], replies[0]), sizes[::-1])[0]
        partner = _partners(one[:, :-1] + two[:, :-1].T)
        back = np.full(sizes[1], -1)
        back[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
        ask_one, hear_two = _cuts(forward, partner, replies[1])
        ask_two, hear_one = _cuts(backward, back, replies[0])
        questions, replies = (ask_one, ask_two), (hear_one, hear_two)
    return questions, replies


def _cuts(answers: Answers, partner: Ints, floor: float) -> tuple[float, float]:
    """Thresholds of the questions and of the answers of one direction."""
    wanted = partner[answers.asked]
    agrees = (answers.answer == wanted) & (answers.answer >= 0)
    known = wanted >= 0
    question = _best_cut(answers.score[known], (agrees & (answers.answer_score >= floor))[known])
    answered = (answers.score >= question) & (answers.answer >= 0)
    return question, _best_cut(answers.answer_score[answered], agrees[answered])


def _best_cut(score: Floats, good: NDArray[np.bool_]) -> float:
    """The score from which on good minus bad is largest."""
    if not len(score):
        return 0.0
    order = np.argsort(-score, kind="stable")
    balance = np.cumsum(np.where(good[order], 1, -1))
    # a threshold cannot separate equal scores
    ends = np.append(np.diff(score[order]) != 0, True)
    return float(score[order][ends][np.argmax(balance[ends])])


def _top(score: Floats, count: int) -> float:
    return float(np.sort(score)[::-1][:count][-1]) if len(score) and count else 0.0


def _partners(counts: Floats) -> Ints:
    """For each row its column if both are each other's largest count, else -1."""
    best, back = counts.argmax(axis=1), counts.argmax(axis=0)
    rows = np.arange(len(counts))
    mutual = (back[best] == rows) & (counts[rows, best] > 0)
    return np.where(mutual, best, -1)
