"""Threshold rules: what each decides, how they chain, and their laws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from composition import detections as table
from composition.errors import UserError
from composition.filtering import (
    DROP,
    ExpectedCount,
    ExpectedF,
    FBeta,
    FirstThat,
    Fixed,
    Labelled,
    Mixture,
    Rule,
    Thresholds,
    from_dict,
    kinds,
)
from composition.filtering.expected_count import expected_boxes
from composition.filtering.labels import CENTRES, SHARE_EXPONENT, chances, histograms, probabilities
from composition.filtering.mixture import fit
from composition.fusion import Nms
from composition.matching import Objects
from composition.pseudo_labels import IGNORE, POSITIVE
from composition.statistics import BINS, Statistics
from tests.composition import scenes

SEED = st.integers(0, 2**32 - 1)
RULES: list[Rule] = [
    Fixed(0.6, 0.2),
    FBeta(),
    FBeta(beta=0.5, shrinkage=1),
    ExpectedF(),
    ExpectedF(shrinkage=0, minimum=1),
    ExpectedF(exponent=SHARE_EXPONENT),
    Mixture(minimum=20),
    ExpectedCount(),
    ExpectedCount(ignored=1),
    FBeta() | Mixture() | ExpectedCount() | Fixed(0.5, 0.3),
]


def world(seed: int, classes: int = 3) -> tuple[Statistics, Labelled, NDArray[np.float32]]:
    """Statistics of many boxes of beta-distributed scores, labels of a few of them."""
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 300))
    scores = random.beta(random.uniform(0.3, 3), random.uniform(0.3, 3), count).astype(np.float32)
    class_id = random.integers(0, classes, count)
    rows = [scores[class_id == c].tolist() for c in range(classes)]
    few = int(random.integers(0, count + 1))
    right = random.uniform(size=few) < scores[:few]
    found, truth = scenes.labelled_rows(scores[:few].tolist(), right.tolist(), class_id[:few].tolist(), [0])
    return (
        scenes.of_scores(rows),
        Labelled(found, truth, random.uniform(size=classes) < 0.8),
        scores,
    )


@given(SEED, st.sampled_from(RULES), st.booleans())
@settings(deadline=None, max_examples=150)
def test_thresholds_are_probabilities_in_order(seed: int, rule: Rule, with_labels: bool) -> None:
    statistics, labelled, _ = world(seed)
    found = rule.thresholds(statistics, labelled if with_labels else None)
    assert len(found.reason) == len(found.keep) == 3
    keep, ignore = found.keep[found.decided], found.ignore[found.decided]
    assert ((ignore >= 0) & (ignore <= keep) & (keep <= 1)).all()
    assert all(found.reason)
    again = from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again.keep, found.keep)
    np.testing.assert_array_equal(again.ignore, found.ignore)
    assert again.reason == found.reason


@given(SEED, SEED)
@settings(deadline=None, max_examples=50)
def test_higher_thresholds_keep_a_subset(seed: int, other: int) -> None:
    tables, coverage = scenes.teachers(seed, 4, 3, 2)
    fused = Nms().fuse(tables)
    low, high = np.sort(np.random.default_rng(other).uniform(size=(2, len(coverage))), axis=0)
    reason = ("fixed",) * len(coverage)
    lower = kinds(fused, Thresholds(low, low / 2, reason))
    upper = kinds(fused, Thresholds(high, high / 2, reason))
    assert not ((upper == POSITIVE) & (lower != POSITIVE)).any()
    assert not ((upper != DROP) & (lower == DROP)).any()


def test_kinds() -> None:
    rows = table.make([0] * 4, [[0, 0, 9, 9]] * 4, [0.9, 0.7, 0.3, 0.2], [0, 1, 0, 0])
    fused = Nms(iou=1).fuse([rows])
    found = Thresholds(np.array([0.5, 0.7]), np.array([0.3, 0.7]), ("fixed", "fixed"))
    # float32(0.7) and float32(0.3) are kept by 0.7 and 0.3
    assert kinds(fused, found).tolist() == [POSITIVE, POSITIVE, IGNORE, DROP]
    assert kinds(fused, found).dtype == np.int8
    part = Thresholds(np.array([0.5, np.nan]), np.array([0.3, np.nan]), ("fixed", "nobody knew"))
    with pytest.raises(UserError, match=r"class 1 \(nobody knew\)"):
        kinds(fused, part)
    rows = rows[rows.class_id == 0]
    assert len(kinds(Nms(iou=1).fuse([rows]), part)) == 3


@pytest.mark.parametrize(
    ("keep", "ignore"), [([0.5], [0.6]), ([1.5], [0.5]), ([0.5], [-0.1]), ([0.5], [np.nan]), ([0.5, 1], [0])]
)
def test_thresholds_are_checked(keep: list[float], ignore: list[float]) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds(np.array(keep), np.array(ignore), ("fixed",))


@given(SEED)
@settings(deadline=None, max_examples=50)
def test_chains_take_the_first_that_decides_however_they_are_nested(seed: int) -> None:
    statistics, labelled, _ = world(seed)
    a, b, c = FBeta(), Mixture(minimum=20), Fixed(0.5, 0.3)
    alone = [rule.thresholds(statistics, labelled) for rule in (a, b, c)]
    left, right, flat = (
        rule.thresholds(statistics, labelled) for rule in ((a | b) | c, a | (b | c), FirstThat((a, b, c)))
    )
    for class_id in range(3):
        first = next(one for one in alone if one.decided[class_id])
        assert left.keep[class_id] == right.keep[class_id] == flat.keep[class_id] == first.keep[class_id]
        assert left.ignore[class_id] == first.ignore[class_id]
    assert left.reason == right.reason == flat.reason
    assert left.decided.all()


def test_reasons_say_who_decided_and_why_the_others_did_not() -> None:
    found = (FBeta() | Mixture() | Fixed(0.5, 0.3)).thresholds(scenes.of_scores([[0.5], []]))
    assert found.reason == (
        "fixed: f_beta has no labels; mixture has 1 boxes",
        "fixed: f_beta has no labels; mixture has 0 boxes",
    )
    found = (FBeta() | Mixture()).thresholds(scenes.of_scores([[0.5]]))
    assert found.reason == ("f_beta has no labels; mixture has 1 boxes",)
    assert not found.decided.any()


def test_fixed() -> None:
    found = Fixed(0.5, 0.3, {1: 0.2, 2: 0.9}).thresholds(scenes.of_scores([[], [], []]))
    assert found.keep.tolist() == [0.5, 0.2, 0.9]
    assert found.ignore.tolist() == [0.3, 0.2, 0.3]
    with pytest.raises(UserError, match="there is no class 7"):
        Fixed(per_class={7: 0.5}).thresholds(scenes.of_scores([[]]))


@given(SEED, st.booleans())
@settings(deadline=None, max_examples=60)
def test_expected_count_keeps_the_closest_number_there_is(seed: int, with_labels: bool) -> None:
    statistics, labelled, _ = world(seed)
    used = labelled if with_labels else None
    found = ExpectedCount().thresholds(statistics, used)
    expected = expected_boxes(statistics, used)
    assert (found.decided == (expected >= 1)).all()
    possible = np.stack([statistics.kept(np.full(3, edge / BINS)) for edge in range(BINS + 1)])
    for class_id in np.flatnonzero(found.decided):
        kept = statistics.kept(np.nan_to_num(found.keep))[class_id]
        assert abs(kept - expected[class_id]) == np.abs(possible[:, class_id] - expected[class_id]).min()


def test_f_beta_is_the_best_there_is() -> None:
    """One class, little shrinkage: no other threshold has a higher F₁ on the labels."""
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    right = [True, True, False, True, False, False, False]
    found, truth = scenes.labelled_rows(scores, right, [0] * 7, [0])
    labelled = Labelled(found, truth, np.ones(1, np.bool_))
    statistics = scenes.of_scores([scores])
    chosen = FBeta(minimum=1).thresholds(statistics, labelled)
    assert 0.5 < chosen.keep[0] <= 0.6  # 3 of 4 right, of 4 objects
    precise = FBeta(beta=0.1, minimum=1).thresholds(statistics, labelled)
    assert 0.7 < precise.keep[0] <= 0.8
    assert precise.ignore[0] == FBeta(beta=2, minimum=1).thresholds(statistics, labelled).keep[0]


def test_f_beta_shrinks_towards_all_classes() -> None:
    random = np.random.default_rng(0)
    # class 0 is certain at low scores, class 1 wrong up to high ones, class 2 was never seen
    scores = random.uniform(size=400)
    class_id = np.arange(400) % 2
    right = scores > np.where(class_id, 0.8, 0.2)
    found, truth = scenes.labelled_rows(scores.tolist(), right.tolist(), class_id.tolist())
    labelled = Labelled(found, truth, np.ones(3, np.bool_))
    statistics = scenes.of_scores([scores[class_id == 0].tolist(), scores[class_id == 1].tolist(), []])
    own = FBeta(shrinkage=1e-6).thresholds(statistics, labelled).keep
    some = FBeta(shrinkage=20).thresholds(statistics, labelled).keep
    pooled = FBeta(shrinkage=1e9).thresholds(statistics, labelled).keep
    np.testing.assert_allclose(own[:2], [0.2, 0.8], atol=0.03)
    assert np.ptp(pooled) == 0
    assert own[2] == some[2] == pooled[0]
    assert own[0] <= some[0] <= pooled[0] <= some[1] <= own[1]


def test_f_beta_decides_only_what_labels_cover() -> None:
    scores = [0.9] * 30 + [0.1] * 10
    found, truth = scenes.labelled_rows(scores, [True] * 30 + [False] * 10, [0] * 40)
    statistics = scenes.of_scores([scores, [0.5]])
    some = FBeta().thresholds(statistics, Labelled(found, truth, np.array([True, False])))
    assert some.decided.tolist() == [True, False]
    assert some.reason == ("f_beta", "f_beta has no labels of it")
    few = Objects(*(column[:4] for column in (truth.image_id, truth.class_id, truth.boxes, truth.crowd)))
    none = FBeta().thresholds(statistics, Labelled(found, few, np.array([True, True])))
    assert none.reason == ("f_beta has 4 labels",) * 2


def test_boxes_in_a_crowd_are_neither_right_nor_wrong() -> None:
    found = table.make([0, 0], [[0, 0, 10, 10], [60, 60, 70, 70]], [0.9, 0.8], [0, 0])
    crowd = Objects(
        np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[0.0, 0, 50, 50]]), np.ones(1, bool)
    )
    right, wrong, objects = histograms(Labelled(found, crowd, np.ones(1, np.bool_)))
    assert (right.sum(), wrong.sum(), objects.sum()) == (0, 1, 0)
    assert wrong[0, int(0.8 * BINS)] == 1


def test_expected_f_meets_the_known_optimum() -> None:
    """With calibrated probabilities the best F₁ threshold is half the best F₁ (Lipton et al., 2014)."""
    random = np.random.default_rng(1)
    scores = random.beta(0.5, 1.5, 20_000).astype(np.float32)
    found = ExpectedF(shrinkage=0).thresholds(scenes.of_scores([scores.tolist()]))
    kept = scores >= found.keep[0]
    best = 2 * scores[kept].sum() / (kept.sum() + scores.sum())
    assert found.keep[0] == pytest.approx(best / 2, abs=2 / BINS)
    assert found.ignore[0] < found.keep[0]


def test_expected_f_asks_the_labels_what_a_score_is_worth() -> None:
    random = np.random.default_rng(2)
    scores = random.beta(0.5, 1.5, 3000).astype(np.float32)
    chance = scores**2  # overconfident
    right = random.uniform(size=3000) < chance
    found, truth = scenes.labelled_rows(scores.tolist(), right.tolist(), [0] * 3000)
    labelled = Labelled(found, truth, np.ones(2, np.bool_))
    statistics = scenes.of_scores([scores.tolist(), []])
    informed, naive = (ExpectedF().thresholds(statistics, one) for one in (labelled, None))
    assert informed.keep[0] > naive.keep[0] + 0.05
    # a class without boxes: as all classes together
    assert informed.keep[0] == informed.keep[1]
    alone = ExpectedF(shrinkage=0).thresholds(statistics, labelled)
    assert alone.reason == ("expected_f", "expected_f has no boxes")
    few = ExpectedF().thresholds(scenes.of_scores([[0.5] * 4]))
    assert few.reason == ("expected_f has 2.0 right boxes",)


def test_probabilities_are_learned_or_taken_from_the_score() -> None:
    random = np.random.default_rng(3)
    scores = random.uniform(0.02, 0.98, 5000)
    chance = 1 / (1 + np.exp(-(2 * np.log(scores / (1 - scores)) - 1)))
    right = random.uniform(size=5000) < chance
    covered = np.ones(1, np.bool_)
    found, truth = scenes.labelled_rows(scores.tolist(), right.tolist(), [0] * 5000)
    learned = probabilities(Labelled(found, truth, covered))
    expected = 1 / (1 + np.exp(-(2 * np.log(CENTRES / (1 - CENTRES)) - 1)))
    np.testing.assert_allclose(learned, expected, atol=0.04)
    assert (np.diff(learned) >= 0).all()
    assert probabilities(None) is CENTRES
    for wrong_way in (
        scenes.labelled_rows([0.9] * 9, [True] * 9, [0] * 9),  # few
        scenes.labelled_rows([0.9] * 50, [True] * 50, [0] * 50),  # nothing is wrong
        scenes.labelled_rows([0.2] * 50 + [0.8] * 50, [True] * 50 + [False] * 50, [0] * 100),
    ):
        assert probabilities(Labelled(*wrong_way, covered)) is CENTRES


def _sigmoid(values: NDArray[np.float64]) -> list[float]:
    return (1 / (1 + np.exp(-values))).tolist()


def test_mixture_splits_two_modes_between_them() -> None:
    random = np.random.default_rng(4)
    two = _sigmoid(np.concatenate([random.normal(-3, 0.6, 700), random.normal(2, 0.6, 300)]))
    found = Mixture().thresholds(scenes.of_scores([two]))
    assert found.reason == ("mixture",)
    logit = np.log(found.keep[0] / (1 - found.keep[0]))
    assert logit == pytest.approx(-0.5 + 0.6**2 * np.log(7 / 3) / 5, abs=0.2)  # equal densities
    assert found.ignore[0] < found.keep[0]
    fitted = fit(scenes.of_scores([two]).scores[0].astype(np.float64))
    assert fitted is not None
    assert fitted.mean == pytest.approx((-3, 2), abs=0.15)
    assert fitted.share == pytest.approx((0.7, 0.3), abs=0.02)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([0.5] * 49, "mixture has 49 boxes"),
        (_sigmoid(np.random.default_rng(5).normal(0, 1, 500)), "mixture finds one mode"),
        (_sigmoid(np.repeat([-5.0, -2.0], 200)), "mixture finds modes of noise"),
        ([0.3] * 200, "mixture finds one mode"),
    ],
)
def test_mixture_names_why_it_does_not_decide(scores: list[float], reason: str) -> None:
    found = Mixture().thresholds(scenes.of_scores([scores]))
    assert found.reason == (reason,)
    assert not found.decided.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(1.2), "not in"),
        (lambda: Fixed(0.3, 0.5), "ignored from 0.5"),
        (lambda: Fixed(per_class={3: -1}), "class 3"),
        (lambda: FBeta(beta=0), "beta"),
        (lambda: FBeta(beta=2, ignore_beta=1), "beta"),
        (lambda: FBeta(shrinkage=0), "shrinkage"),
        (lambda: ExpectedF(shrinkage=-1), "shrinkage"),
        (lambda: ExpectedF(beta=float("nan")), "beta"),
        (lambda: Mixture(keep=0.1, ignore=0.5), "ignore <= keep"),
        (lambda: Mixture(minimum=1), "too few"),
        (lambda: ExpectedCount(ignored=0.5), "at least 1"),
        (lambda: FirstThat(()), "no threshold rule"),
    ],
)
def test_settings_are_checked(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(UserError, match=message):
        make()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.floats(0.2, 8))
def test_chances_rise_with_the_score_and_fix_both_ends(scores: list[float], exponent: float) -> None:
    rising = chances(np.array([0.0, *sorted(scores), 1.0]), exponent)
    assert rising[0] == 0
    assert rising[-1] == 1
    assert (np.diff(rising) >= 0).all()


@given(SEED, st.sampled_from([ExpectedF, ExpectedCount, Mixture]))
@settings(deadline=None, max_examples=50)
def test_an_exponent_of_one_leaves_scores_as_they_are(
    seed: int, rule: type[ExpectedF] | type[ExpectedCount] | type[Mixture]
) -> None:
    statistics, _, _ = world(seed)
    assert rule().exponent == 1
    np.testing.assert_array_equal(chances(CENTRES, 1.0), CENTRES)
    plain, stated = rule().thresholds(statistics), rule(exponent=1.0).thresholds(statistics)
    np.testing.assert_array_equal(plain.keep, stated.keep)


@given(SEED)
@settings(deadline=None, max_examples=50)
def test_higher_chances_keep_more_boxes_by_count(seed: int) -> None:
    statistics, _, _ = world(seed)
    plain = ExpectedCount().thresholds(statistics)
    shares = ExpectedCount(exponent=SHARE_EXPONENT).thresholds(statistics)
    both = plain.decided & shares.decided
    # the sums of `Statistics.expected` are of the scores themselves, not of the bins' centres
    assert (shares.keep[both] <= plain.keep[both] + 2 / BINS).all()


def test_labels_that_suffice_overrule_the_exponent() -> None:
    scores = np.linspace(0.05, 0.95, 60)
    right = np.random.default_rng(1).uniform(size=60) < scores
    found, truth = scenes.labelled_rows(scores.tolist(), right.tolist(), [0] * 60, [0])
    labelled = Labelled(found, truth, np.array([True]))
    np.testing.assert_array_equal(probabilities(labelled, SHARE_EXPONENT), probabilities(labelled))
    np.testing.assert_array_equal(probabilities(None, SHARE_EXPONENT), chances(CENTRES, SHARE_EXPONENT))


@pytest.mark.parametrize("rule", [ExpectedF, ExpectedCount, Mixture])
@pytest.mark.parametrize("exponent", [0.0, -1.0, np.inf, np.nan])
def test_impossible_exponents_are_refused(rule: type[ExpectedF], exponent: float) -> None:
    with pytest.raises(UserError, match="exponent"):
        rule(exponent=exponent)
