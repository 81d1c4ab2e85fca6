"""Whether a teacher behaves on a pool of images as it did on its own validation images (ours).

A detector that meets images unlike those it was made for seldom fails loudly:
it finds less, and is less sure. So three figures are taken of every image: the
best score, the mean score, and the number of boxes. Their distributions over
the images are a teacher's *score profile*, a few histograms that add up over
shards and that its bundle can carry. A pool's profile is held against it by
the Kolmogorov-Smirnov distance, the largest gap between the cumulative
distributions. Chance is judged by permutation: all images of both are dealt
again into groups of the two sizes, so that small groups need larger gaps.

An alarm says "unlike", not "wrong": other scenes, another camera, or only
other classes than usual. It is a reason to look, or to label a few images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError

Counts = NDArray[np.int64]
PROFILE_VERSION = 1
SCORE_BINS = 50
MAX_BOXES = 100
FLOOR = 0.05
"""Scores below are not looked at: inference may have cut them off."""
BOX_SCORE = 0.1
"""From here on a box is counted."""
FEATURES = ("best_score", "mean_score", "boxes")
DRAWS = 9999
SEED = 20


@dataclass(frozen=True, slots=True)
class ScoreProfile:
    """What a teacher did on a set of images, as sums.

    Attributes:
        best_score: (50,) int64, images by their best score, in equal bins of
            [0, 1]; an image without boxes is in the first.
        mean_score: (50,) int64, images by the mean score of their boxes.
        boxes: (101,) int64, images by their number of boxes with a score of at
            least `BOX_SCORE`; the last holds all with more than 99.
    """

    best_score: Counts
    mean_score: Counts
    boxes: Counts

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.boxes.sum())

    def __add__(self, other: ScoreProfile) -> ScoreProfile:
        return ScoreProfile(*(getattr(self, name) + getattr(other, name) for name in FEATURES))

    def mean(self, feature: str) -> float:
        """Mean of a feature over the images (of the middles of the bins); NaN without images."""
        counts: Counts = getattr(self, feature)
        values = np.arange(len(counts)) if feature == "boxes" else (np.arange(len(counts)) + 0.5) / SCORE_BINS
        return float((counts * values).sum() / counts.sum()) if counts.sum() else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"version": PROFILE_VERSION, **{name: getattr(self, name).tolist() for name in FEATURES}}


def empty_profile() -> ScoreProfile:
    """The profile of no images."""
    return ScoreProfile(
        np.zeros(SCORE_BINS, np.int64), np.zeros(SCORE_BINS, np.int64), np.zeros(MAX_BOXES + 1, np.int64)
    )


def profile(detections: Detections, images: int) -> ScoreProfile:
    """The profile of one teacher on a set of images.

    Args:
        detections: Its detections, in whatever classes.
        images: How many images it was shown, those without detections too.

    Raises:
        ValueError: The detections are on more images than that.
    """
    rows = detections[detections.score >= np.float32(FLOOR)]
    seen, place = np.unique(rows.image_id, return_inverse=True)
    if len(seen) > images:
        raise ValueError(f"detections on {len(seen)} images, but only {images} were shown")
    best, total, boxes = np.zeros(images), np.zeros(images), np.zeros(images, np.int64)
    score = rows.score.astype(np.float64)
    np.maximum.at(best, place, score)
    np.add.at(total, place, score)
    np.add.at(boxes, place[rows.score >= np.float32(BOX_SCORE)], 1)
    every = np.maximum(np.bincount(place, minlength=images), 1)
    return ScoreProfile(
        _histogram(best),
        _histogram(total / every),
        np.bincount(np.minimum(boxes, MAX_BOXES), minlength=MAX_BOXES + 1).astype(np.int64),
    )


def _histogram(values: NDArray[np.float64]) -> Counts:
    place = np.clip((values * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    return np.bincount(place, minlength=SCORE_BINS).astype(np.int64)


def from_dict(document: Any, source: str) -> ScoreProfile:
    """The inverse of `ScoreProfile.to_dict`.

    Args:
        document: JSON values.
        source: Where they come from, for the errors.

    Raises:
        UserError: Not a profile of this version.
    """
    way_out = "Make it again with `detcompose teacher evaluate TEACHER --images FILE --save-profile`."
    if not isinstance(document, Mapping) or document.get("version") != PROFILE_VERSION:
        raise UserError(f"{source} is not a score profile of version {PROFILE_VERSION}", way_out)
    sizes = {name: len(getattr(empty_profile(), name)) for name in FEATURES}
    columns: list[Counts] = []
    for name, size in sizes.items():
        values = document.get(name)
        if not isinstance(values, list) or len(values) != size or not all(map(_is_count, values)):
            raise UserError(f"{source}: {name!r} is not a list of {size} counts", way_out)
        columns.append(np.array(values, np.int64))
    if len({int(column.sum()) for column in columns}) > 1:
        raise UserError(f"{source}: its histograms are not of the same images", way_out)
    return ScoreProfile(*columns)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """When a pool is called unlike the reference.

    Attributes:
        p_value: An alarm needs a smaller chance under "no difference" than this.
        distance: And a Kolmogorov-Smirnov distance of at least this, in [0, 1]:
            with enough images any two sets differ. 0.25 lies between what
            290 other images of COCO show (medians of six teachers: 0.07 to 0.12)
            and what other domains do (0.48 to 0.80), see
            ``benchmarks/results/domain_alarm.md``.
        minimum_images: Of either; with fewer nothing is said.
    """

    p_value: float = 0.001
    distance: float = 0.25
    minimum_images: int = 20


@dataclass(frozen=True, slots=True)
class FeatureShift:
    """One figure on the pool against the reference.

    Attributes:
        distance: Kolmogorov-Smirnov distance in [0, 1].
        p_value: Share of permutations with at least that distance.
        reference: Mean over the images of the reference.
        pool: Mean over the images of the pool.
    """

    distance: float
    p_value: float
    reference: float
    pool: float


@dataclass(frozen=True, slots=True)
class DomainCheck:
    """The answer for one teacher.

    Attributes:
        verdict: ``alike``, ``alarm``, or ``too few images``.
        features: By name, see `FEATURES`.
        p_value: Of all features together (Bonferroni).
        reference_images: Images of the reference.
        pool_images: Images of the pool.
    """

    verdict: str
    features: dict[str, FeatureShift]
    p_value: float
    reference_images: int
    pool_images: int

    @property
    def worst(self) -> str:
        """The feature with the largest distance."""
        return max(self.features, key=lambda name: self.features[name].distance)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "verdict": self.verdict,
            "p_value": self.p_value,
            "reference_images": self.reference_images,
            "pool_images": self.pool_images,
            "features": {
                name: {
                    "distance": round(shift.distance, 4),
                    "p_value": shift.p_value,
                    "reference": round(shift.reference, 4),
                    "pool": round(shift.pool, 4),
                }
                for name, shift in self.features.items()
            },
        }


def check_domain(
    reference: ScoreProfile, pool: ScoreProfile, settings: AlarmSettings | None = None
) -> DomainCheck:
    """Holds a teacher's profile on a pool against the one on its own validation images.

    The permutation test takes images for independent; frames of one video are
    not, and then an alarm comes too easily (the minimum distance still holds).

    Args:
        reference: On images of the teacher's own kind.
        pool: On the images in question.
        settings: When to call them unlike.

    Returns:
        The same answer for the same profiles: the permutations have a fixed seed.
    """
    limits = settings or AlarmSettings()
    sizes = (reference.images, pool.images)
    if min(sizes) < max(limits.minimum_images, 1):
        return DomainCheck("too few images", {}, 1.0, *sizes)
    features = {}
    for name in FEATURES:
        one, two = getattr(reference, name), getattr(pool, name)
        distance, p_value = _permutation_test(one, two)
        features[name] = FeatureShift(distance, p_value, reference.mean(name), pool.mean(name))
    together = min(1.0, len(FEATURES) * min(shift.p_value for shift in features.values()))
    alarm = any(
        shift.distance >= limits.distance and len(FEATURES) * shift.p_value < limits.p_value
        for shift in features.values()
    )
    return DomainCheck("alarm" if alarm else "alike", features, together, *sizes)


def _permutation_test(one: Counts, two: Counts) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two histograms, and its p-value by permuting their members."""
    both = one + two
    used = both > 0
    one, two, both = one[used], two[used], both[used]
    observed = float(_distance(one, two))
    generator = np.random.default_rng(SEED)
    dealt = generator.multivariate_hypergeometric(both, int(one.sum()), DRAWS, method="marginals")
    chance = _distance(dealt, both - dealt)
    return observed, float((1 + (chance >= observed - 1e-12).sum()) / (1 + DRAWS))


def _distance(one: Counts, two: Counts) -> NDArray[np.float64]:
    gap = one.cumsum(axis=-1) / one.sum(axis=-1, keepdims=True)
    gap = gap - two.cumsum(axis=-1) / two.sum(axis=-1, keepdims=True)
    return np.asarray(np.abs(gap).max(axis=-1))
