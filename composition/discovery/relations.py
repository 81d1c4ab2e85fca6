"""From the answers of two teachers to relations between their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from composition.detections import Detections
from composition.discovery.answers import Answers, above, ask
from composition.discovery.evidence import Direction, Side, accept, p_value_of
from composition.discovery.thresholds import find_thresholds
from composition.errors import UserError

Kind = Literal["same", "narrower", "broader"]
# p-value below which a possible second part of a class keeps `same` from being confident
_DOUBT = 0.2


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
    questions, replies = find_thresholds(forward, backward, sizes)
    forward = above(forward, questions[0], replies[1])
    backward = above(backward, questions[1], replies[0])
    found = _relate(Side.of(forward, sizes), Side.of(backward, sizes[::-1]), chosen)
    return Discovery(found, forward, backward, questions, replies)


def _relate(forward: Side, backward: Side, settings: DiscoverySettings) -> tuple[Proposal, ...]:
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


def _equal(forward: Side, backward: Side, settings: DiscoverySettings) -> list[tuple[int, int, float, bool]]:
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
    accepted = accept(np.array([p for *_, p in candidates]), settings.false_share)
    return [(*candidate, bool(sure)) for candidate, sure in zip(candidates, accepted, strict=True)]


def _rank(side: Side) -> tuple[int, float]:
    """Larger for the teacher with more classes; of equals, for the one that is answered more often."""
    total = side.weights.sum()
    return len(side.said), float(side.said.sum() / total) if total else 0.0


def _equal_p(forward: Side, backward: Side, first: int, second: int, heard: float) -> float:
    """Largest p-value of the tests of `_equal`; ``forward`` is the direction of the majority test."""
    one, two = forward.said[first], backward.said[second]
    runner_up = np.partition(two, -2)[-2] if len(two) > 1 else 0.0
    return max(
        p_value_of(one[second], one.sum(), 0.5),
        p_value_of(two[first], two[first] + runner_up, 0.5),
        p_value_of(one[second], forward.weights[first].sum(), heard),
        p_value_of(two[first], backward.weights[second].sum(), heard),
    )


def _parts(forward: Side, settings: DiscoverySettings) -> list[tuple[int, int, float]]:
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
                p_value_of(said[answer], said.sum(), 0.5),
                p_value_of(said[answer], forward.weights[asked].sum(), settings.included),
            )
            found.append((asked, answer, p_value))
    return found


def _wider(
    parts: list[tuple[int, int, float]], forward: Side, settings: DiscoverySettings
) -> list[tuple[int, int, float, bool]]:
    """The parts of each class that surely has two or more, with p-value and verdict."""
    accepted = accept(np.array([p for *_, p in parts]), settings.false_share)
    sure = [whole for (_, whole, _), ok in zip(parts, accepted, strict=True) if ok]
    found = []
    for (part, whole, p_value), ok in zip(parts, accepted, strict=True):
        agreed, total = forward.said[part, whole], forward.weights[part].sum()
        likely = min(agreed / forward.said[part].sum() - 0.5, agreed / total - settings.included) >= 0
        if sure.count(whole) >= 2 and likely:
            found.append((part, whole, p_value, bool(ok)))
    return found
