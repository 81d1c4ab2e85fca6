"""Discovery of class relations: synthetic worlds where the truth is known, and the real teachers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from composition import detections
from composition.detections import Detections
from composition.discovery import DiscoverySettings, Proposal, ask, discover, lower_bound
from composition.discovery.evidence import accept, p_value_of
from composition.errors import UserError


def _world(
    seed: int, images: int, kinds: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Up to three well separated objects an image: image, box, kind."""
    random = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), 3)
    corner = np.stack([np.tile([0.0, 100.0, 200.0], images), random.uniform(0, 50, len(image))], axis=1)
    boxes = np.hstack([corner, corner + random.uniform(40, 60, (len(image), 2))])
    return image, boxes, random.integers(0, kinds, len(image))


def _teacher(
    seed: int,
    world: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]],
    classes: list[int | None],
    misses: float = 0.2,
    errors: float = 0.1,
    scale: float = 1.0,
) -> Detections:
    """A detector that calls kind k by ``classes[k]`` (None: it does not know it, and mostly keeps quiet)."""
    random = np.random.default_rng(seed)
    image, boxes, kind = world
    known = np.array([-1 if name is None else name for name in classes])[kind]
    size = max(name for name in classes if name is not None) + 1
    wrong = random.uniform(size=len(kind)) < np.where(known < 0, 0.25, errors)
    said = np.where(wrong, random.integers(0, size, len(kind)), known)
    seen = (random.uniform(size=len(kind)) > misses) & (said >= 0)
    score = np.where(wrong, random.uniform(0.1, 0.5, len(kind)), random.uniform(0.4, 0.95, len(kind)))
    shaken = boxes + random.normal(0, 2, boxes.shape)
    return detections.make(image[seen], shaken[seen], scale * score[seen], said[seen])


def _found(proposals: tuple[Proposal, ...], *, confident: bool) -> set[tuple[int, int, str]]:
    return {(p.first, p.second, p.relation) for p in proposals if p.confident or not confident}


def test_shuffled_classes_are_recovered_whatever_the_scale_of_the_scores() -> None:
    world = _world(0, 300, 6)
    order = [3, 0, 5, 1, 4, 2]
    first = _teacher(1, world, [0, 1, 2, 3, 4, 5])
    second = _teacher(2, world, list(order), scale=0.4)
    found = discover(first, second, (6, 6)).proposals
    expected = {(kind, name, "same") for kind, name in enumerate(order)}
    assert _found(found, confident=True) == expected
    assert _found(found, confident=False) == expected


def test_classes_that_only_one_teacher_has_find_no_partner() -> None:
    world = _world(3, 300, 6)
    first = _teacher(4, world, [0, 1, 2, 3, 4, 5])
    second = _teacher(5, world, [0, 1, 2, None, None, None])
    assert _found(discover(first, second, (6, 3)).proposals, confident=True) == {
        (0, 0, "same"), (1, 1, "same"), (2, 2, "same"),
    }  # fmt: skip
    apart = _teacher(6, world, [None, None, None, 0, 1, 2])
    assert _found(discover(second, apart, (3, 3)).proposals, confident=True) == set()


@pytest.mark.parametrize("turned", [False, True])
def test_a_class_that_gathers_several_is_broader(turned: bool) -> None:
    world = _world(7, 400, 6)
    fine = _teacher(8, world, [0, 1, 2, 3, 4, 5])
    coarse = _teacher(9, world, [0, 0, 0, 1, 2, None])
    tables, sizes = ((coarse, fine), (3, 6)) if turned else ((fine, coarse), (6, 3))
    relation = "narrower" if turned else "broader"
    expected = {
        *((0, part, relation) if turned else (part, 0, relation) for part in range(3)),
        *((name, part, "same") if turned else (part, name, "same") for part, name in ((3, 1), (4, 2))),
    }
    assert _found(discover(*tables, sizes).proposals, confident=True) == expected


def test_three_sheep_in_one_image_are_one_piece_of_evidence() -> None:
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]] * 4
    flock = detections.make(
        [0] * 12, np.add(boxes, np.repeat([0, 20, 40, 60], 3)[:, None] * [0, 1, 0, 1]), [0.9] * 12, [0] * 12
    )
    assert discover(flock, flock, (1, 1)).proposals == ()
    spread = detections.make(np.arange(12), boxes, [0.9] * 12, [0] * 12)
    (proposal,) = discover(spread, spread, (1, 1)).proposals
    assert proposal.confident
    assert (proposal.forward.boxes, proposal.forward.images, proposal.forward.agreeing_images) == (12, 12, 12)


def test_turning_the_teachers_round_turns_the_proposals_round() -> None:
    world = _world(10, 150, 8)
    first, second = _teacher(11, world, list(range(8))), _teacher(12, world, [0, 1, 2, 2, 2, 3, None, 4])
    one, two = discover(first, second, (8, 5)), discover(second, first, (5, 8))
    other = {"same": "same", "broader": "narrower", "narrower": "broader"}
    assert {(p.first, p.second, p.relation, p.confident, p.forward) for p in one.proposals} == {
        (p.second, p.first, other[p.relation], p.confident, p.backward) for p in two.proposals
    }
    assert one.ask == two.ask[::-1]
    assert one.hear == two.hear[::-1]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_the_order_of_rows_means_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    world = _world(seed, 20, 3)
    first, second = _teacher(seed + 1, world, [0, 1, 2]), _teacher(seed + 2, world, [0, 1, 1])
    mixed = [table[random.permutation(len(table))] for table in (first, second)]
    assert discover(*mixed, (3, 2)).proposals == discover(first, second, (3, 2)).proposals


def test_no_boxes_no_proposals() -> None:
    full = _teacher(1, _world(0, 5, 2), [0, 1])
    for tables in ((detections.empty(), full), (full, detections.empty()), (detections.empty(),) * 2):
        assert discover(*tables, (2, 2)).proposals == ()


def test_class_ids_are_checked() -> None:
    with pytest.raises(UserError, match="teacher 2 name a class outside its 1 classes"):
        discover(detections.empty(), detections.make([0], [[0, 0, 1, 1]], [0.5], [1]), (1, 1))


def test_questions_and_answers() -> None:
    asking = detections.make(
        [0, 0, 0, 1],
        [[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10], [0, 0, 10, 10]],
        [0.9, 0.8, 0.7, 0.6],
        [0, 1, 2, 0],
    )
    answering = detections.make(
        [0, 0, 0], [[0, 0, 10, 8], [0, 0, 10, 10], [50, 0, 60, 4]], [0.3, 0.2, 0.9], [4, 5, 6]
    )
    answers = ask(asking, answering)
    # the second box is the same object as the first, the surest answer counts, 0.4 is no overlap
    assert answers.rows.tolist() == [0, 2, 3]
    assert answers.answer.tolist() == [4, -1, -1]
    assert answers.answer_rows.tolist() == [0, -1, -1]
    np.testing.assert_allclose(answers.answer_score, [0.3, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(("agreed", "count"), [(0, 5), (1, 1), (5, 5), (8, 10), (50, 200)])
def test_bounds_are_clopper_and_pearson(agreed: int, count: int) -> None:
    lower = lower_bound(agreed, count, 0.95)
    if agreed:
        # at the bound, so much agreement has a chance of exactly one in twenty
        assert binom.sf(agreed - 1, count, lower) == pytest.approx(0.05)
        assert p_value_of(agreed, count, 0.5) == pytest.approx(binom.sf(agreed - 1, count, 0.5))
    else:
        assert lower == 0
        assert p_value_of(0, count, 0.5) == 1


def test_many_hypotheses_need_stronger_evidence() -> None:
    assert accept(np.array([0.04]), 0.05).tolist() == [True]
    assert accept(np.array([0.04, 0.9, 0.9]), 0.05).tolist() == [False, False, False]
    assert accept(np.array([0.01, 0.9, 0.02]), 0.05).tolist() == [True, False, True]
    assert accept(np.array([]), 0.05).tolist() == []


def test_more_evidence_is_asked_for_by_settings() -> None:
    world = _world(0, 60, 6)
    first, second = _teacher(1, world, list(range(6))), _teacher(2, world, list(range(6)))
    strict = discover(first, second, (6, 6), DiscoverySettings(false_share=1e-6)).proposals
    loose = discover(first, second, (6, 6)).proposals
    assert _found(strict, confident=True) < _found(loose, confident=True)
    assert _found(strict, confident=False) == _found(loose, confident=False)


def test_no_confident_proposal_of_the_real_teachers_is_wrong(data_dir: Path, tmp_path: Path) -> None:
    from benchmarks.discovery import detections_of, hidden, missing

    names = ["yolox_nano_coco", "yolo_fastest_xl_voc"]
    found = detections_of(data_dir, tmp_path, names)
    result = hidden(found[names[0]], found[names[1]])
    assert result["confident_wrong"] == 0
    assert result["confident"] >= 6
    assert result["recall"] >= 0.85
    # with one class at a time taken away, anything confident would be wrong
    assert missing(found[names[0]], found[names[1]])["confident"] == 0
