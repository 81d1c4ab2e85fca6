"""What becomes of every fused box: positive, ignore region, or nothing, and why.

The rules, in this order, each within one image:

1. A box of class c with fused score p is *positive* if p >= keep(c), *uncertain*
   if ignore(c) <= p < keep(c), and *background* below. A positive with a side
   shorter than ``minimum_size`` is uncertain: there is an object, too small to
   learn from.
2. A region that a broader class leaves open for c is uncertain if its score
   reaches ignore(c), else background. It never becomes positive.
3. Two positives of different classes with IoU >= 0.8, neither the parent of the
   other, are in conflict: one object, two names. From the most probable on,
   each positive that is in conflict with one that stays becomes uncertain.
4. What is uncertain becomes an *ignore* region, unless a positive says better what
   is there; then it is *covered*. That is a positive of its own class with IoU >=
   0.5, and one of another class with IoU >= 0.8 that is neither parent nor
   child: what is known to be a car is no open question for bus, and whoever
   gave way in rule 3 is answered by the winner. Ignoring the loser instead would
   take away the very lesson that tells the two classes apart. A region around
   smaller positives stays, for there may be more inside.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion import Fused
from composition.fusion.clusters import conflicts
from composition.pseudo_labels.table import IGNORE, POSITIVE, PseudoLabels, from_fused

COVERED: Final = 2
BACKGROUND: Final = 3
_UNCERTAIN: Final = IGNORE

CONFLICT_IOU = 0.8
COVERED_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Rules:
    """What the decision goes by.

    Attributes:
        keep: (C,) fused score from which a box of each class is positive; a
            value above 1 keeps none.
        ignore: (C,) score from which it is at least an ignore region, nowhere
            above ``keep``.
        related: (C, C) bool, classes that may stand on one object
            (`composition.label_space.related`).
        minimum_size: Pixels that both sides of a positive must have.

    Raises:
        UserError: Shapes that do not fit, thresholds that are NaN or crossed.
    """

    keep: NDArray[np.float64]
    ignore: NDArray[np.float64]
    related: NDArray[np.bool_]
    minimum_size: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.keep)
        if self.keep.shape != self.ignore.shape or self.related.shape != (count, count):
            raise UserError(
                f"thresholds of {count} and {len(self.ignore)} classes, relations of {len(self.related)}",
                "Give all three for the classes of one label space.",
            )
        broken = np.flatnonzero(~(self.ignore <= self.keep))
        if len(broken):
            first = int(broken[0])
            raise UserError(
                f"class {first}: ignored from {self.ignore[first]:g} on, kept from {self.keep[first]:g} on",
                "A box must be ignored from a lower score on than it is kept.",
            )
        if not self.minimum_size >= 0:
            raise UserError(f"minimum_size {self.minimum_size} is not a number of pixels", "Use 0 or more.")


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the boxes; the first four add up to all boxes and regions that came in.

    Attributes:
        positive: Labels to learn from.
        ignore: Ignore regions.
        covered: Uncertain boxes and regions about which a positive says better what they are.
        background: Boxes and regions below the ignore threshold.
        conflicts: Positives that gave way to another class; they are among
            ``covered``.
    """

    positive: int = 0
    ignore: int = 0
    covered: int = 0
    background: int = 0
    conflicts: int = 0

    def __add__(self, other: Tally) -> Tally:
        mine, theirs = asdict(self), asdict(other)
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


def decide(
    fused: Fused, regions: Fused, rules: Rules, box_weight: NDArray[np.float32] | None = None
) -> tuple[PseudoLabels, Tally]:
    """Turns fused boxes and open regions into pseudo-labels.

    Args:
        fused: N fused boxes in the union classes.
        regions: What broader classes leave open (`composition.pseudo_labels.regions`).
        rules: Thresholds and relations.
        box_weight: (N,) in [0, 1], how far the place of each box is trusted;
            None = all 1.

    Returns:
        Positives and ignore regions, sorted; what became of every row. The
        result for an image depends on no other image.

    Raises:
        UserError: Numbers of teachers differ.
    """
    joined, verdict, given_way = judge(fused, regions, rules)
    chosen = np.flatnonzero((verdict == POSITIVE) | (verdict == IGNORE))
    trust = np.ones(len(joined), np.float32)
    if box_weight is not None:
        trust[: len(fused)] = box_weight
    labels = from_fused(_rows(joined, chosen), verdict[chosen], trust[chosen])
    positive, ignore, covered, background = np.bincount(verdict, minlength=4).tolist()
    tally = Tally(positive, ignore, covered, background, int(given_way.sum()))
    return labels[table.order(joined.detections[chosen])], tally


def judge(fused: Fused, regions: Fused, rules: Rules) -> tuple[Fused, NDArray[np.int8], NDArray[np.bool_]]:
    """The verdict on every row.

    Returns:
        All N rows, boxes first, then regions; (N,) int8 `POSITIVE`, `IGNORE`,
        `COVERED` or `BACKGROUND`; (N,) bool, whether a positive gave way to
        another class.

    Raises:
        UserError: Numbers of teachers differ.
    """
    if fused.scores.shape[1] != regions.scores.shape[1]:
        raise UserError(
            f"boxes of {fused.scores.shape[1]} teachers, regions of {regions.scores.shape[1]}",
            "Make both from the same teachers.",
        )
    joined = _joined(fused, regions)
    rows = joined.detections
    # float32 like the scores: a threshold of 0.7 must keep a score of float32(0.7)
    keep, ignore = rules.keep.astype(np.float32), rules.ignore.astype(np.float32)
    verdict = np.full(len(rows), BACKGROUND, np.int8)
    verdict[rows.score >= ignore[rows.class_id]] = _UNCERTAIN
    certain = rows.score >= keep[rows.class_id]
    certain[len(fused) :] = False
    certain &= _shorter_side(rows) >= np.float32(rules.minimum_size)
    verdict[certain] = POSITIVE
    given_way = _give_way(rows, verdict, rules.related)
    verdict[given_way] = _UNCERTAIN
    answered = _answered(rows, verdict, rules.related)
    verdict[_covered(rows, verdict)] = COVERED
    verdict[answered] = COVERED
    return joined, verdict, given_way


def _joined(fused: Fused, regions: Fused) -> Fused:
    return Fused(
        table.concatenate([fused.detections, regions.detections]),
        np.concatenate([fused.teachers, regions.teachers]),
        np.concatenate([fused.scores, regions.scores]),
    )


def _rows(fused: Fused, rows: NDArray[np.int64]) -> Fused:
    return Fused(fused.detections[rows], fused.teachers[rows], fused.scores[rows])


def _shorter_side(rows: Detections) -> NDArray[np.float32]:
    x1, y1, x2, y2 = rows.boxes.T
    return np.asarray(np.minimum(x2 - x1, y2 - y1))


def _give_way(rows: Detections, verdict: NDArray[np.int8], related: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) positives that are in conflict with a more probable positive that stays (rule 3)."""
    result = np.zeros(len(rows), np.bool_)
    positive = np.flatnonzero(verdict == POSITIVE)
    # most probable first; class and box break ties, so that the order of the rows plays no part
    positive = positive[table.order(rows[positive])]
    chosen = rows[positive]
    pairs = conflicts(chosen.image_id, chosen.class_id, chosen.boxes, CONFLICT_IOU)
    pairs = pairs[~related[chosen.class_id[pairs[:, 0]], chosen.class_id[pairs[:, 1]]]]
    # rising pairs: everything that could make the first of a pair give way has been seen before it
    away = np.zeros(len(chosen), np.bool_)
    for better, worse in pairs.tolist():
        if not away[better]:
            away[worse] = True
    result[positive[away]] = True
    return result


def _covered(rows: Detections, verdict: NDArray[np.int8]) -> NDArray[np.int64]:
    """Uncertain rows that overlap a positive of their own class (rule 4)."""
    used = np.flatnonzero((verdict == POSITIVE) | (verdict == _UNCERTAIN))
    chosen, uncertain = rows[used], verdict[used] == _UNCERTAIN
    # `conflicts` pairs rows of one image that differ in class: here of one image and class, in verdict
    place = np.unique(chosen.image_id, return_inverse=True)[1]
    group = place * (int(chosen.class_id.max(initial=0)) + 1) + chosen.class_id
    pairs = conflicts(group.astype(np.int64), uncertain.astype(np.int64), chosen.boxes, COVERED_IOU)
    both = pairs.reshape(-1)
    return np.asarray(used[np.unique(both[uncertain[both]])])


def _answered(rows: Detections, verdict: NDArray[np.int8], related: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Uncertain rows whose object a positive of an unrelated class names (rule 4)."""
    used = np.flatnonzero((verdict == POSITIVE) | (verdict == _UNCERTAIN))
    chosen, uncertain = rows[used], verdict[used] == _UNCERTAIN
    pairs = conflicts(chosen.image_id, chosen.class_id, chosen.boxes, CONFLICT_IOU)
    pairs = pairs[~related[chosen.class_id[pairs[:, 0]], chosen.class_id[pairs[:, 1]]]]
    # of the pairs of a positive and an uncertain row, the latter
    pairs = pairs[uncertain[pairs[:, 0]] != uncertain[pairs[:, 1]]]
    both = pairs.reshape(-1)
    return np.asarray(used[np.unique(both[uncertain[both]])])
