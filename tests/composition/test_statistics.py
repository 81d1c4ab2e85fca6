"""Statistics of fused shards: what they count, and that shards do not matter."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections as table
from composition.errors import UserError
from composition.fusion import Expert, Nms, Wbf
from composition.statistics import (
    BINS,
    UNIT,
    Statistics,
    empty,
    from_dict,
    merge,
    statistics_of,
    to_dict,
)
from tests.composition import scenes

SEED = st.integers(0, 2**32 - 1)
COVERAGE = np.array([[True, True], [True, False]])


def small() -> Statistics:
    """Two teachers agree on one box of class 0; the first alone has one of class 1, the second one of 0."""
    first = table.make([0, 0], [[0, 0, 10, 10], [50, 50, 60, 60]], [0.75, 0.5], [0, 1])
    second = table.make([0, 1], [[0, 0, 10, 10], [0, 0, 10, 10]], [0.25, 1.0], [0, 0])
    tables = [first, second]
    return statistics_of(Expert().fuse(tables), tables, COVERAGE, 3)


def test_counts_of_a_small_case() -> None:
    found = small()
    assert (found.images, found.images_with_box) == (3, 2)
    assert found.class_images.tolist() == [2, 1]
    assert found.boxes.tolist() == [2, 1]
    assert found.expected.tolist() == [1.75, 0.5]
    assert np.flatnonzero(found.scores[0]).tolist() == [int(0.75 * BINS), BINS - 1]
    assert found.members.tolist() == [[1, 2], [1, 0]]
    assert found.together.tolist() == [[2, 1], [1, 2]]
    # the second teacher cannot see class 1, so that the first's box of it asks it nothing
    assert found.asked.tolist() == [[2, 1], [2, 2]]
    assert (found.together_mass / UNIT).tolist() == [[1.25, 0.75], [0.75, 1.75]]
    np.testing.assert_allclose(found.agreement, [[1, 1], [0.75 / 1.75, 1]])
    assert found.raw.sum(axis=2).tolist() == [[1, 1], [2, 0]]
    assert found.kept(np.array([0.75, 0.51])).tolist() == [2, 0]
    assert found.kept(np.array([1.0, 0.0])).tolist() == [0, 1]


def test_agreement_with_a_teacher_that_sees_nothing_is_unknown() -> None:
    assert np.isnan(empty(2, 2).agreement).all()


@given(SEED, st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=40)
def test_shard_boundaries_do_not_matter(
    seed: int, images: int, classes: int, count: int, data: st.DataObject
) -> None:
    tables, coverage = scenes.teachers(seed, images, classes, count)
    fuser = data.draw(st.sampled_from([Nms(), Wbf(), Expert()]))
    whole = statistics_of(fuser.fuse(tables), tables, coverage, images)
    cuts = sorted(data.draw(st.sets(st.integers(1, images), max_size=4)))
    edges = [0, *cuts, images]
    parts = []
    for first, last in pairwise(edges):
        shard = scenes.on_images(tables, first, last)
        parts.append(statistics_of(fuser.fuse(shard), shard, coverage, last - first))
    order = data.draw(st.permutations(range(len(parts))))
    assert reduce(merge, [parts[i] for i in order], empty(classes, count)) == whole


@given(SEED)
@settings(deadline=None, max_examples=20)
def test_merging_is_associative_commutative_and_empty_is_neutral(seed: int) -> None:
    a, b, c = (
        statistics_of(Nms().fuse(tables), tables, np.ones((3, 2), np.bool_), 4)
        for tables, _ in (scenes.teachers(seed + i, 4, 3, 2) for i in range(3))
    )
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, b) == merge(b, a)
    assert merge(a, empty(3, 2)) == a == merge(empty(3, 2), a)
    assert (a == b) is (to_dict(a) == to_dict(b))


@given(SEED)
@settings(deadline=None, max_examples=20)
def test_json_is_exact(seed: int) -> None:
    tables, coverage = scenes.teachers(seed, 5, 3, 2)
    whole = statistics_of(Wbf().fuse(tables), tables, coverage, 5)
    assert from_dict(json.loads(json.dumps(to_dict(whole)))) == whole


@given(st.floats(0, 1, width=32), st.integers(0, BINS))
@settings(max_examples=300)
def test_bins_and_thresholds_agree(score: float, edge: int) -> None:
    found = scenes.of_scores([[score]])
    kept = int(found.kept(np.array([edge / BINS]))[0])
    # 1 has no bin of its own: the last one holds it
    assert kept == (np.float32(score) >= np.float32(edge / BINS) and edge < BINS)


def test_the_size_does_not_grow_with_the_images() -> None:
    def size(images: int) -> int:
        tables, coverage = scenes.teachers(0, images, 4, 3)
        found = statistics_of(Nms().fuse(tables), tables, coverage, images)
        arrays = (getattr(found, field.name) for field in fields(found))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    assert size(1) == size(200)


def test_what_does_not_fit_is_an_error() -> None:
    tables, _ = scenes.teachers(0, 4, 2, 2)
    fused = Nms().fuse(tables)
    with pytest.raises(UserError, match="2 tables and 2 fused teachers, but a coverage of 3"):
        statistics_of(fused, tables, np.ones((2, 3), np.bool_), 4)
    with pytest.raises(UserError, match="have boxes, but the shard has 1"):
        statistics_of(fused, tables, np.ones((2, 2), np.bool_), 1)
    with pytest.raises(UserError, match="2 classes and 2 teachers cannot be merged"):
        merge(empty(2, 2), empty(3, 2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", "many"),
        ("scores", {"shape": [2, 2], "at": [9], "value": [1]}),
        ("mass", {"at": [0], "value": [1]}),
    ],
)
def test_a_broken_document_names_the_field(field: str, value: Any) -> None:
    document = to_dict(small())
    with pytest.raises(UserError, match=f"field '{field}'"):
        from_dict({**document, field: value})
    del document[field]
    with pytest.raises(UserError, match=f"field '{field}'"):
        from_dict(document)
