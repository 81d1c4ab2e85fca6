"""What to look at before any training: counts, agreement, expected precision, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.confirmation import CONFIDENT, Confirmations
from composition.detections import Detections
from composition.domain_alarm import DomainCheck, ScoreProfile, check_domain
from composition.filtering import Thresholds
from composition.matching import Objects, match
from composition.pseudo_labels import IGNORE, POSITIVE, PseudoLabels
from composition.statistics import BINS, RAW_BINS, Statistics

DIAGNOSIS_VERSION = 1
HALF = np.array([0.5])
MINIMUM_BOXES = 20
"""With fewer positive boxes a class is called thin: a student hardly learns it."""
LOW_AGREEMENT = 0.3
"""Below this share of confirmed confident boxes a teacher stands alone."""
_MIDDLES = (np.arange(BINS) + 0.5) / BINS
_CONFIDENT_BIN = round(CONFIDENT * RAW_BINS)


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """Pseudo-labels against human labels; shares in [0, 1], None where there is nothing to divide by.

    Attributes:
        positives: Pseudo-labels, those in crowd regions left out.
        objects: Human labels, crowd regions left out.
        right: Pseudo-labels that take an object of their class at IoU >= 0.5.
        quality: Sum over the pseudo-labels of `Matches.quality`, the share of IoU
            thresholds at which each is right: what calibrated scores foretell.
        ap: COCO AP of the pseudo-labels in percent, where it was measured.
        ap50: At IoU 0.5.
    """

    positives: int
    objects: int
    right: int
    quality: float
    ap: float | None = None
    ap50: float | None = None

    @property
    def precision(self) -> float | None:
        """Right among the pseudo-labels."""
        return self.right / self.positives if self.positives else None

    @property
    def recall(self) -> float | None:
        """Found among the objects."""
        return self.right / self.objects if self.objects else None

    @property
    def mean_quality(self) -> float | None:
        """Precision averaged over COCO's ten IoU thresholds."""
        return self.quality / self.positives if self.positives else None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        shares = ("precision", "recall", "mean_quality")
        return {**asdict(self), **{name: _rounded(getattr(self, name)) for name in shares}}


@dataclass(frozen=True, slots=True)
class ClassDiagnosis:
    """One union class on the pool.

    Attributes:
        name: The class.
        boxes: Teacher name to its boxes above the score floor; only experts of the class.
        confident: Teacher name to its boxes with a raw score of at least `CONFIDENT`.
        fused: Fused boxes at any score.
        images: Images with a fused box.
        positives: Fused boxes kept as labels.
        ignored: Fused boxes between the thresholds.
        keep: Score from which a fused box is a label; None where no rule could decide.
        ignore: Score from which it is an ignore region; None likewise.
        reason: The rule that chose the thresholds.
        expected_precision: Mean fused score of the positives. With scores that
            `composition.calibration` made this is the precision to expect,
            averaged over COCO's ten IoU thresholds (at IoU 0.5 alone it is
            higher). None without calibration, or without positives.
        confirmed: Share of the experts' confident boxes that another expert
            confirms, of those that another expert could; None without any.
        quality: Against human labels, where there are some.
    """

    name: str
    boxes: Mapping[str, int]
    confident: Mapping[str, int]
    fused: int
    images: int
    positives: int
    ignored: int
    keep: float | None
    ignore: float | None
    reason: str = ""
    expected_precision: float | None = None
    confirmed: float | None = None
    quality: LabelQuality | None = None

    @property
    def verdict(self) -> str:
        """``no expert``, ``no boxes``, ``thin`` or ``enough``."""
        if not self.boxes:
            return "no expert"
        if not self.positives:
            return "no boxes"
        return "thin" if self.positives < MINIMUM_BOXES else "enough"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "quality"},
            "boxes": dict(self.boxes),
            "confident": dict(self.confident),
            "expected_precision": _rounded(self.expected_precision),
            "confirmed": _rounded(self.confirmed),
            "verdict": self.verdict,
            "quality": self.quality.to_dict() if self.quality else None,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything about a pool that can be said before training.

    Attributes:
        images: Images of the pool.
        teachers: Their names, in the order of the label space.
        classes: One per union class, in order.
        asked: (T, T) confident boxes of the row's teacher that the column's could confirm.
        agreement: (T, T) share of them that it confirms; NaN where none was asked.
        raw: (T, `RAW_BINS`) boxes of each teacher by raw score, in equal bins of [0, 1].
        fused: (`BINS`,) fused boxes by score.
        calibrated: Whether fused scores are calibrated probabilities.
        domain: Teacher name to the check against its own validation; a teacher
            without a score profile is missing.
        profiles: Teacher name to its profiles: its own validation's (None
            without), and the pool's.
        quality: All classes together against human labels, where there are some.
    """

    images: int
    teachers: tuple[str, ...]
    classes: tuple[ClassDiagnosis, ...]
    asked: NDArray[np.int64]
    agreement: NDArray[np.float64]
    raw: NDArray[np.int64]
    fused: NDArray[np.int64]
    calibrated: bool
    domain: Mapping[str, DomainCheck] = field(default_factory=dict)
    profiles: Mapping[str, tuple[ScoreProfile | None, ScoreProfile]] = field(default_factory=dict)
    quality: LabelQuality | None = None

    @property
    def confirmed(self) -> dict[str, float | None]:
        """Teacher name to the share of its confident boxes that the others confirm, over all of them."""
        total = self.asked.sum(axis=1)
        hits = (np.nan_to_num(self.agreement) * self.asked).sum(axis=1)
        return {name: float(hits[t] / total[t]) if total[t] else None for t, name in enumerate(self.teachers)}

    def to_dict(self) -> dict[str, Any]:
        """JSON form, versioned."""
        return {
            "version": DIAGNOSIS_VERSION,
            "images": self.images,
            "calibrated": self.calibrated,
            "warnings": list(warnings(self)),
            "teachers": [
                {
                    "name": name,
                    "boxes": int(self.raw[t].sum()),
                    "confident": int(self.raw[t, _CONFIDENT_BIN:].sum()),
                    "confirmed": _rounded(self.confirmed[name]),
                    "domain": self.domain[name].to_dict() if name in self.domain else None,
                    "scores": self.raw[t].tolist(),
                    "profile": self.profiles[name][1].to_dict() if name in self.profiles else None,
                }
                for t, name in enumerate(self.teachers)
            ],
            "fused": {"boxes": int(self.fused.sum()), "scores": self.fused.tolist()},
            "agreement": {
                "asked": self.asked.tolist(),
                "share": [[_rounded(value) for value in row] for row in self.agreement.tolist()],
            },
            "quality": self.quality.to_dict() if self.quality else None,
            "classes": [one.to_dict() for one in self.classes],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 4)


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Sums over pseudo-labels of C classes; parts add up to the whole.

    Attributes:
        positives: (C,) int64.
        ignored: (C,) int64.
        weight: (C,) float64, sum of the weights of the positives.
    """

    positives: NDArray[np.int64]
    ignored: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(
            self.positives + other.positives, self.ignored + other.ignored, self.weight + other.weight
        )


def count_labels(labels: PseudoLabels, num_classes: int) -> LabelCounts:
    """The sums of a table of pseudo-labels."""
    positive = labels.kind == POSITIVE
    return LabelCounts(
        np.bincount(labels.class_id[positive], minlength=num_classes),
        np.bincount(labels.class_id[labels.kind == IGNORE], minlength=num_classes),
        np.bincount(labels.class_id[positive], labels.weight[positive], num_classes).astype(np.float64),
    )


def foreseen_labels(statistics: Statistics, thresholds: Thresholds) -> LabelCounts:
    """The sums before there are labels, from the histograms; thresholds count as edges of their bins."""
    # nothing is kept of a class that no rule could decide
    keep, ignore = (
        np.where(thresholds.decided, limit, 2.0) for limit in (thresholds.keep, thresholds.ignore)
    )
    edges = np.ceil(keep * BINS)[:, None] <= np.arange(BINS)
    kept = statistics.scores * edges
    reach = statistics.scores * (np.ceil(ignore * BINS)[:, None] <= np.arange(BINS))
    positives = kept.sum(axis=1)
    return LabelCounts(positives, reach.sum(axis=1) - positives, kept @ _MIDDLES)


def diagnose(
    statistics: Statistics,
    confirmations: Confirmations,
    classes: Sequence[str],
    teachers: Sequence[str],
    coverage: NDArray[np.bool_],
    thresholds: Thresholds,
    *,
    calibrated: bool,
    labels: LabelCounts | None = None,
    profiles: Mapping[str, tuple[ScoreProfile | None, ScoreProfile]] | None = None,
    quality: Mapping[int, LabelQuality] | None = None,
) -> Diagnosis:
    """Puts the sums of a pool and its thresholds into words and figures.

    Args:
        statistics: Of all shards.
        confirmations: Of all shards.
        classes: (C,) names of the union classes.
        teachers: (T,) names.
        coverage: (C, T) bool, who can see which class.
        thresholds: Of the fused scores.
        calibrated: Whether fused scores are calibrated probabilities.
        labels: Counts of the pseudo-labels, where they were made already; None:
            foreseen from the statistics and the thresholds.
        profiles: Teacher name to its score profiles: on its own validation
            images (None if it has none), and on the pool.
        quality: Union class id to its figures against human labels.
    """
    counts = foreseen_labels(statistics, thresholds) if labels is None else labels
    asked, confirmed = (part.sum(axis=(0, 1)) for part in (confirmations.asked, confirmations.confirmed))
    raw = statistics.raw.sum(axis=2)
    sure = statistics.raw[:, :, _CONFIDENT_BIN:].sum(axis=2)
    fused = statistics.boxes
    rows = []
    for c, name in enumerate(classes):
        experts = np.flatnonzero(coverage[c]).tolist()
        count = int(counts.positives[c])
        decided = bool(thresholds.decided[c])
        rows.append(
            ClassDiagnosis(
                name=name,
                boxes={teachers[t]: int(raw[t, c]) for t in experts},
                confident={teachers[t]: int(sure[t, c]) for t in experts},
                fused=int(fused[c]),
                images=int(statistics.class_images[c]),
                positives=count,
                ignored=int(counts.ignored[c]),
                keep=float(thresholds.keep[c]) if decided else None,
                ignore=float(thresholds.ignore[c]) if decided else None,
                reason=thresholds.reason[c],
                expected_precision=float(counts.weight[c]) / count if count and calibrated else None,
                confirmed=float(confirmed[c] / asked[c]) if asked[c] else None,
                quality=(quality or {}).get(c),
            )
        )
    pairs, hits = (part.sum(axis=2) for part in (confirmations.asked, confirmations.confirmed))
    return Diagnosis(
        images=statistics.images,
        teachers=tuple(teachers),
        classes=tuple(rows),
        asked=pairs,
        agreement=np.divide(hits, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0),
        raw=statistics.raw.sum(axis=1),
        fused=statistics.scores.sum(axis=0),
        calibrated=calibrated,
        domain={name: check_domain(own, pool) for name, (own, pool) in (profiles or {}).items() if own},
        profiles=dict(profiles or {}),
        quality=together(quality) if quality else None,
    )


def label_quality(labels: Detections, truth: Objects, num_classes: int) -> dict[int, LabelQuality]:
    """Precision and recall of positive pseudo-labels, class by class.

    Args:
        labels: The positive pseudo-labels, scores their weights.
        truth: Human labels of the same images.
        num_classes: Number of union classes.

    Returns:
        Class id to its figures, for classes with a pseudo-label or an object.
    """
    found, half = match(labels, truth), match(labels, truth, HALF)
    positives = np.bincount(labels.class_id[found.counted], minlength=num_classes)
    right = np.bincount(labels.class_id[found.counted & (half.quality > 0)], minlength=num_classes)
    shares = np.bincount(labels.class_id[found.counted], found.quality[found.counted], num_classes)
    objects = np.bincount(truth.class_id[~truth.crowd], minlength=num_classes)
    return {
        c: LabelQuality(int(positives[c]), int(objects[c]), int(right[c]), float(shares[c]))
        for c in range(num_classes)
        if positives[c] or objects[c]
    }


def together(quality: Mapping[int, LabelQuality]) -> LabelQuality:
    """All classes as one; AP is the mean over the classes that have it."""
    parts = list(quality.values())
    return LabelQuality(
        sum(one.positives for one in parts),
        sum(one.objects for one in parts),
        sum(one.right for one in parts),
        sum(one.quality for one in parts),
        _mean([one.ap for one in parts]),
        _mean([one.ap50 for one in parts]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def warnings(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What a person should know before training, the gravest first, in sentences."""
    lines = []
    for name, check in diagnosis.domain.items():
        if check.verdict == "alarm":
            worst = check.features[check.worst]
            lines.append(
                f"{name} behaves on these images unlike on its own validation images "
                f"({check.worst.replace('_', ' ')} {worst.pool:.2f} against {worst.reference:.2f} "
                "on average): look at its boxes before you trust it"
            )
    unknown = [name for name in diagnosis.teachers if name not in diagnosis.domain]
    for name in unknown:
        share = diagnosis.confirmed[name]
        if share is not None and share < LOW_AGREEMENT:
            lines.append(
                f"{name} stands alone: other teachers confirm only {share:.0%} of its confident boxes"
            )
    for verdict, text in {
        "no expert": "no teacher knows",
        "no boxes": "no box is sure enough of",
        "thin": f"fewer than {MINIMUM_BOXES} labels for",
    }.items():
        names = [one.name for one in diagnosis.classes if one.verdict == verdict]
        if names:
            lines.append(f"{text} {_listed(names)}")
    if unknown:
        lines.append(f"no reference to judge the images by for {_listed(unknown)}: no score profile")
    return tuple(lines)


def _listed(names: Sequence[str], limit: int = 8) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
