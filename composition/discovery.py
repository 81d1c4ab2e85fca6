"""Which classes of two detectors are the same, found from what they do on unlabeled images.

The names are never looked at. Each teacher's boxes are put to the other as
questions: what do you see here? The answer is the class of its surest box that
overlaps the question (IoU >= 0.5), or silence. From the answers in both
directions follow the pairs of classes that mean the same, and the classes of
one teacher that gather several of the other's. This is ours, not the paper's;
docs/label-space.md has the reasoning and benchmarks/discovery.py the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from composition.detections import Detections
from composition.errors import UserError

Kind = Literal["same", "narrower", "broader"]
# p-value below which a possible second part of a class keeps `same` from being confident
_DOUBT = 0.2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """When evidence is enough.

    Attributes:
        iou: Overlap from which two boxes show the same thing.
        false_share: Share of wrong ones that is accepted among the confident
            proposals (false discovery rate of Benjamini and Hochberg).
        answered: Smallest share of a class's boxes, silence included, on which
            the other teacher must agree before ``same`` can be confident.
        included: The same for a class to be confidently part of a wider one.
        least_images: Images that must agree before a pair is proposed at all.
        bound: Level of the one-sided confidence bounds that are reported.
    """

    iou: float = 0.5
    false_share: float = 0.1
    answered: float = 0.2
    included: float = 0.5
    least_images: int = 2
    bound: float = 0.95


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


@dataclass(frozen=True, slots=True)
class Proposal:
    """A relation between a class of each teacher.

    Attributes:
        first: Class id of the first teacher.
        second: Class id of the second teacher.
        relation: What the second's class is to the first's: ``same``,
            ``narrower`` (a kind of it) or ``broader``.
        confident: Whether it passed the tests; otherwise it is the best guess.
        p_value: Largest p-value of its tests.
        forward: The first's boxes put to the second teacher.
        backward: The second's boxes put to the first teacher.
    """

    first: int
    second: int
    relation: Kind
    confident: bool
    p_value: float
    forward: Direction
    backward: Direction


@dataclass(frozen=True, slots=True)
class Discovery:
    """The proposals for two teachers, and where their thresholds came to lie.

    Attributes:
        proposals: Confident ones first, then by p-value.
        first: The first teacher's questions and the second's answers, above the thresholds.
        second: The second teacher's questions and the first's answers.
        ask: Score from which each teacher's boxes are questions, (first, second).
        hear: Score from which each teacher's boxes are answers, (first, second).
    """

    proposals: tuple[Proposal, ...]
    first: Answers
    second: Answers
    ask: tuple[float, float]
    hear: tuple[float, float]


def discover(
    first: Detections,
    second: Detections,
    sizes: tuple[int, int],
    settings: DiscoverySettings | None = None,
) -> Discovery:
    """Finds the classes of two teachers that mean the same or contain each other.

    Args:
        first: One teacher's detections on some images, with a low score floor.
        second: The other's on the same images.
        sizes: Number of classes of each.
        settings: When evidence is enough; default: `DiscoverySettings`.

    Returns:
        The proposals with their evidence. The order of rows has no influence.

    Raises:
        UserError: A class id outside its vocabulary.
    """
    chosen = settings or DiscoverySettings()
    for number, (table, size) in enumerate(zip((first, second), sizes, strict=True), start=1):
        if len(table) and not (0 <= table.class_id.min() <= table.class_id.max() < size):
            raise UserError(f"detections of teacher {number} name a class outside its {size} classes")
    forward = ask(first, second, chosen.iou)
    backward = ask(second, first, chosen.iou)
    questions, replies = _thresholds(forward, backward, sizes)
    forward = _above(forward, questions[0], replies[1])
    backward = _above(backward, questions[1], replies[0])
    found = _relate(_Side.of(forward, sizes), _Side.of(backward, sizes[::-1]), chosen)
    return Discovery(found, forward, backward, questions, replies)


# --- questions and answers ------------------------------------------------------------


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
    for image, rows in zip(images.tolist(), np.split(order, starts[1:]), strict=bool(len(images))):
        yield image, rows


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


# --- thresholds -----------------------------------------------------------------------


def _thresholds(
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
        one = _counts(_above(forward, questions[0], replies[1]), sizes)[0]
        two = _counts(_above(backward, questions[1], replies[0]), sizes[::-1])[0]
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


def _above(answers: Answers, question: float, reply: float) -> Answers:
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


# --- evidence -------------------------------------------------------------------------


def _counts(answers: Answers, sizes: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
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
class _Side:
    """One direction as tables; see `_counts`."""

    answers: Answers
    boxes: Floats
    images: Floats
    weights: Floats

    @classmethod
    def of(cls, answers: Answers, sizes: tuple[int, int]) -> _Side:
        return cls(answers, *_counts(answers, sizes))

    @property
    def said(self) -> Floats:
        """Weights without silence, (K, L)."""
        return self.weights[:, :-1]

    def direction(self, asked: int, answer: int, bound: float) -> Direction:
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


def _p_value(agreed: float, count: float, share: float) -> float:
    """Chance of at least so much agreement if the true share were only ``share``."""
    return float(betainc(agreed, max(count - agreed, 0.0) + 1, share)) if agreed > 0 else 1.0


def _accept(p_values: Floats, false_share: float) -> NDArray[np.bool_]:
    """Benjamini and Hochberg (1995): which hypotheses to accept among all that were tested."""
    ordered = np.sort(p_values)
    passes = np.flatnonzero(ordered <= false_share * np.arange(1, len(ordered) + 1) / len(ordered))
    return p_values <= (ordered[passes[-1]] if len(passes) else -1.0)


# --- relations ------------------------------------------------------------------------


def _relate(forward: _Side, backward: _Side, settings: DiscoverySettings) -> tuple[Proposal, ...]:
    """From the answers of both directions to proposals."""
    parts = _parts(forward, settings), _parts(backward, settings)
    found: list[tuple[int, int, Kind, float, bool]] = []
    for part, whole, p_value, sure in _wider(parts[0], forward, settings):
        found.append((part, whole, "broader", p_value, sure))
    wide_second = {second for _, second, *_ in found}
    for part, whole, p_value, sure in _wider(parts[1], backward, settings):
        found.append((whole, part, "narrower", p_value, sure))
    wide_first = {first for first, _, relation, *_ in found if relation == "narrower"}
    for first, second, p_value, sure in _equal(forward, backward, settings):
        if second not in wide_second and first not in wide_first:
            alone = not _shared(parts[0], first, second) and not _shared(parts[1], second, first)
            found.append((first, second, "same", p_value, sure and alone))
    proposals = [
        Proposal(
            first,
            second,
            relation,
            sure,
            p_value,
            forward.direction(first, second, settings.bound),
            backward.direction(second, first, settings.bound),
        )
        for first, second, relation, p_value, sure in dict.fromkeys(found)
    ]
    proposals.sort(key=lambda p: (not p.confident, p.p_value, p.first, p.second))
    return tuple(proposals)


def _shared(parts: list[tuple[int, int, float]], part: int, whole: int) -> bool:
    """Whether another class may well be a part of ``whole``, so that it is not just ``part``."""
    return any(other != part and of == whole and p <= _DOUBT for other, of, p in parts)


def _equal(
    forward: _Side, backward: _Side, settings: DiscoverySettings
) -> list[tuple[int, int, float, bool]]:
    """Pairs in which each class is the other's most frequent answer, with p-value and verdict.

    Confident takes, all at once (so the largest p-value counts and no
    correction among them is needed): in the vocabulary with more classes, the
    class is answered with its partner more often than with everything else
    together; the partner is answered with it more often than with the
    runner-up, which bears that a small vocabulary fires wrongly on what it has
    no class for; and in both directions the partner is heard often enough,
    silence included, as it would not be if it were only the closest there is.
    """
    candidates: list[tuple[int, int, float]] = []
    for second in range(len(backward.said)):
        first = int(backward.said[second].argmax())
        if backward.said[second, first] == 0 or forward.said[first].argmax() != second:
            continue
        if min(forward.images[first, second], backward.images[second, first]) < settings.least_images:
            continue
        if _rank(forward) >= _rank(backward):
            p_value = _equal_p(forward, backward, first, second, settings.answered)
        else:
            p_value = _equal_p(backward, forward, second, first, settings.answered)
        candidates.append((first, second, p_value))
    accepted = _accept(np.array([p for *_, p in candidates]), settings.false_share)
    return [(*candidate, bool(sure)) for candidate, sure in zip(candidates, accepted, strict=True)]


def _rank(side: _Side) -> tuple[int, float]:
    """Larger for the teacher with more classes; of equals, for the one that is answered more often."""
    total = side.weights.sum()
    return len(side.said), float(side.said.sum() / total) if total else 0.0


def _equal_p(forward: _Side, backward: _Side, first: int, second: int, heard: float) -> float:
    """Largest p-value of the tests of `_equal`; ``forward`` is the direction of the majority test."""
    one, two = forward.said[first], backward.said[second]
    runner_up = np.partition(two, -2)[-2] if len(two) > 1 else 0.0
    return max(
        _p_value(one[second], one.sum(), 0.5),
        _p_value(two[first], two[first] + runner_up, 0.5),
        _p_value(one[second], forward.weights[first].sum(), heard),
        _p_value(two[first], backward.weights[second].sum(), heard),
    )


def _parts(forward: _Side, settings: DiscoverySettings) -> list[tuple[int, int, float]]:
    """Classes whose boxes the other teacher mostly calls by one class, with p-value.

    Silence counts against it: a class that the other teacher has is seen, one
    that it only takes for something else (a microwave for a television) is
    passed over most of the time.
    """
    found = []
    for asked, said in enumerate(forward.said):
        answer = int(said.argmax()) if said.any() else 0
        if forward.images[asked, answer] >= settings.least_images:
            p_value = max(
                _p_value(said[answer], said.sum(), 0.5),
                _p_value(said[answer], forward.weights[asked].sum(), settings.included),
            )
            found.append((asked, answer, p_value))
    return found


def _wider(
    parts: list[tuple[int, int, float]], forward: _Side, settings: DiscoverySettings
) -> list[tuple[int, int, float, bool]]:
    """The parts of each class that surely has two or more, with p-value and verdict."""
    accepted = _accept(np.array([p for *_, p in parts]), settings.false_share)
    sure = [whole for (_, whole, _), ok in zip(parts, accepted, strict=True) if ok]
    found = []
    for (part, whole, p_value), ok in zip(parts, accepted, strict=True):
        agreed, total = forward.said[part, whole], forward.weights[part].sum()
        likely = min(agreed / forward.said[part].sum() - 0.5, agreed / total - settings.included) >= 0
        if sure.count(whole) >= 2 and likely:
            found.append((part, whole, p_value, bool(ok)))
    return found
