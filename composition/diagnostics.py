"""What to look at before any training: counts, agreement, expected precision, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.domain_alarm import DomainCheck, ScoreProfile, check_domain
from composition.matching import Objects, match
from composition.pool_sums import BINS, CONFIDENT, PoolSums

DIAGNOSIS_VERSION = 1
MINIMUM_BOXES = 20
"""With fewer positive boxes a class is called thin: a student hardly learns it."""
LOW_AGREEMENT = 0.3
"""Below this share of confirmed confident boxes a teacher stands alone."""
_MIDDLES = (np.arange(BINS) + 0.5) / BINS


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
        keep: Score from which a fused box is a label.
        ignore: Score from which it is an ignore region.
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
    keep: float
    ignore: float
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
        raw: (T, B) boxes of each teacher by raw score, in equal bins of [0, 1].
        fused: (B,) fused boxes by score.
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
                    "confident": int(self.raw[t, round(CONFIDENT * BINS) :].sum()),
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


def diagnose(
    sums: PoolSums,
    classes: Sequence[str],
    teachers: Sequence[str],
    coverage: NDArray[np.bool_],
    keep: NDArray[np.float64],
    ignore: NDArray[np.float64],
    *,
    calibrated: bool,
    profiles: Mapping[str, tuple[ScoreProfile | None, ScoreProfile]] | None = None,
    quality: Mapping[int, LabelQuality] | None = None,
) -> Diagnosis:
    """Puts the sums of a pool and its thresholds into words and figures.

    Args:
        sums: Of all shards.
        classes: (C,) names of the union classes.
        teachers: (T,) names.
        coverage: (C, T) bool, who can see which class.
        keep: (C,) fused score from which a box is a label. Counted in bins of
            1 / `BINS`: other thresholds are rounded to the nearest edge.
        ignore: (C,) fused score from which it is an ignore region; not above ``keep``.
        calibrated: Whether fused scores are calibrated probabilities.
        profiles: Teacher name to its score profiles: on its own validation
            images (None if it has none), and on the pool.
        quality: Union class id to its figures against human labels.
    """
    rows = []
    confirmed, asked = _by_class(sums)
    lowest, kept = (np.clip(np.rint(limit * BINS).astype(int), 0, BINS) for limit in (ignore, keep))
    for c, name in enumerate(classes):
        experts = [t for t in range(len(teachers)) if coverage[c, t]]
        positive = sums.fused[c, kept[c] :]
        count = int(positive.sum())
        expected = float(positive @ _MIDDLES[kept[c] :] / count) if count and calibrated else None
        rows.append(
            ClassDiagnosis(
                name,
                {teachers[t]: int(sums.raw[t, c].sum()) for t in experts},
                {teachers[t]: int(sums.raw[t, c, round(CONFIDENT * BINS) :].sum()) for t in experts},
                int(sums.fused[c].sum()),
                int(sums.seen[c]),
                count,
                int(sums.fused[c, lowest[c] : kept[c]].sum()),
                float(keep[c]),
                float(ignore[c]),
                expected,
                float(confirmed[c] / asked[c]) if asked[c] else None,
                (quality or {}).get(c),
            )
        )
    pairs = sums.asked.sum(axis=2)
    share = np.divide(sums.confirmed.sum(axis=2), pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    return Diagnosis(
        int(sums.images),
        tuple(teachers),
        tuple(rows),
        pairs,
        share,
        sums.raw.sum(axis=1),
        sums.fused.sum(axis=0),
        calibrated,
        {name: check_domain(own, pool) for name, (own, pool) in (profiles or {}).items() if own is not None},
        dict(profiles or {}),
        together(quality) if quality else None,
    )


def _by_class(sums: PoolSums) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return sums.confirmed.sum(axis=(0, 1)), sums.asked.sum(axis=(0, 1))


def label_quality(labels: Detections, truth: Objects, num_classes: int) -> dict[int, LabelQuality]:
    """Precision and recall of positive pseudo-labels, class by class.

    Args:
        labels: The positive pseudo-labels, scores their weights.
        truth: Human labels of the same images.
        num_classes: Number of union classes.

    Returns:
        Class id to its figures, for classes with a pseudo-label or an object.
    """
    found = match(labels, truth)
    positives = np.bincount(labels.class_id[found.counted], minlength=num_classes)
    right = np.bincount(labels.class_id[found.counted & (found.quality > 0)], minlength=num_classes)
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
