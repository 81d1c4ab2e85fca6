"""Building label spaces and mapping detections into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections, label_space
from composition.errors import UserError
from composition.label_space import Entry, LabelSpace

A = ["cat", "sofa", "0"]
B = ["couch", "dog"]


def _targets(space: LabelSpace, teacher: str) -> list[tuple[str, str | None]]:
    return [(entry.relation, entry.target) for entry in space.teachers[teacher]]


def test_union_in_order_of_first_appearance() -> None:
    space = label_space.build({"a": A, "b": B})
    assert space.classes == ("cat", "couch", "0", "dog")
    assert [entry.teacher_class for entry in space.teachers["a"]] == A
    assert _targets(space, "a") == [("same", "cat"), ("same", "couch"), ("same", "0")]
    assert _targets(space, "b") == [("same", "couch"), ("same", "dog")]


def test_union_of_voc_and_coco_is_coco(data_dir: Path) -> None:
    lists = {
        name: (data_dir / "teachers" / f"{name}.names").read_text().splitlines() for name in ("voc", "coco")
    }
    space = label_space.build(lists)
    assert len(space.classes) == 80
    assert space.classes[:3] == ("airplane", "bicycle", "bird")
    assert label_space.coverage(space).sum(axis=0).tolist() == [20, 80]


@pytest.mark.parametrize(
    ("classes", "overrides", "expected"),
    [
        # given classes, everything matches
        (["dog", "couch", "cat", "0"], None, [("same", "cat"), ("same", "couch"), ("same", "0")]),
        # one class out
        (None, {"a": {"0": "drop"}}, [("same", "cat"), ("same", "couch"), ("drop", None)]),
        # the rest out
        (["couch", "dog"], {"a": {"*": "drop"}}, [("drop", None), ("same", "couch"), ("drop", None)]),
        # with *, a teacher adds no classes of its own to the union
        (None, {"a": {"*": "drop"}}, [("drop", None), ("same", "couch"), ("drop", None)]),
        # a renamed class stays the same
        (
            ["pet", "couch", "dog"],
            {"a": {"cat": "pet", "0": "drop"}},
            [("same", "pet"), ("same", "couch"), ("drop", None)],
        ),
        # many to one
        (
            ["pet", "dog", "couch"],
            {"a": {"cat": "pet", "0": "pet"}},
            [("narrower", "pet"), ("same", "couch"), ("narrower", "pet")],
        ),
        # the target of an override may be a synonym
        (
            ["dog", "couch"],
            {"a": {"*": "SOFA"}},
            [("narrower", "couch"), ("same", "couch"), ("narrower", "couch")],
        ),
    ],
)
def test_build(
    classes: list[str] | None,
    overrides: dict[str, dict[str, str]] | None,
    expected: list[tuple[str, str | None]],
) -> None:
    assert _targets(label_space.build({"a": A, "b": B}, classes, overrides), "a") == expected


def test_overrides_may_name_the_relation() -> None:
    space = label_space.build(
        {"a": ["car", "bus", "suv"], "b": ["vehicle", "junk"]},
        overrides={
            "a": {"suv": {"narrower": "car"}},
            "b": {"vehicle": {"broader": ["bus", "automobile"]}, "junk": {"drop": []}},
        },
    )
    assert space.classes == ("car", "bus")
    assert space.teachers["a"][2] == Entry("suv", "narrower", "car")
    assert space.teachers["b"] == (Entry("vehicle", "broader", "car", "bus"), Entry("junk", "drop"))


def test_a_parent_is_seen_through_its_children() -> None:
    space = label_space.build({"a": A}, ["cat", "couch", "0", "pet"], parents={"cat": "pet"})
    assert label_space.experts(space)["pet"] == ("a",)
    with pytest.raises(UserError, match=r"'pets', which is not a union class.*did you mean 'pet'"):
        label_space.build({"a": A}, ["cat", "couch", "0", "pet"], parents={"cat": "pets"})


def test_synonyms_of_one_teacher_share_a_class() -> None:
    space = label_space.build({"a": ["television", "tv"]})
    assert space.classes == ("tv",)
    assert _targets(space, "a") == [("same", "tv"), ("same", "tv")]


def test_given_classes_keep_synonyms_apart() -> None:
    space = label_space.build({"a": ["television", "tv"]}, ["tv", "television"])
    assert _targets(space, "a") == [("same", "television"), ("same", "tv")]


@pytest.mark.parametrize(
    ("classes", "overrides", "texts"),
    [
        (["couch", "dog"], None, ["2 teacher classes fit no class", "a: 'cat'", "a: '0'", "drop"]),
        (["cats", "0", "dog", "couch"], None, ["a: 'cat' ('cats'?)"]),
        (None, {"c": {}}, ["teacher 'c'", "a, b"]),
        (None, {"a": {"cats": "drop"}}, ["'cats'", "did you mean 'cat'"]),
        (None, {"a": {"0": "dgo"}}, ["'dgo'", "not a union class", "did you mean 'dog'"]),
        (["cat", "couch", "0", "dog", "zebra"], None, ["no teacher can see class 'zebra'"]),
        (["cat", "cat"], None, ["'cat' appears twice"]),
        (["cat", " "], None, ["blank"]),
        ([], None, ["no classes"]),
        (None, {"a": {"*": "drop"}, "b": {"*": "drop"}}, ["no classes"]),
        (None, {"a": {"0": {"wider": "dog"}}}, ["'0' must have one relation", "'wider'"]),
        (None, {"a": {"0": {}}}, ["'0' must have one relation, it has none"]),
        (None, {"a": {"0": {"same": "dog", "narrower": "cat"}}}, ["'0' must have one relation"]),
        (None, {"a": {"0": {"broader": ["dog", "ct"]}}}, ["'ct'", "did you mean 'cat'"]),
        (None, {"a": {"0": {"same": ["dog", "cat"]}}}, ["'same' takes one target, not 2"]),
        (["cat", "couch", "0", "dog", "pet"], {"a": {"cat": {"broader": "pet"}}}, ["can see class 'cat'"]),
    ],
)
def test_build_errors(
    classes: list[str] | None, overrides: dict[str, dict[str, str]] | None, texts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        label_space.build({"a": A, "b": B}, classes, overrides)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("vocabulary", "classes", "text"),
    [
        (["tvmonitor"], ["tv", "television"], "fits several union classes"),
        (["Cat", "cat"], None, "differ only in spelling"),
        (["cat", "cat"], None, "appears twice"),
        (["cat", ""], None, "blank"),
        ([], None, "no classes"),
    ],
)
def test_bad_vocabularies(vocabulary: list[str], classes: list[str] | None, text: str) -> None:
    with pytest.raises(UserError, match=text):
        label_space.build({"a": vocabulary}, classes)


SPACE = LabelSpace(
    ("car", "drop", "person"),
    {
        "a": (
            Entry("person", "same", "person"),
            Entry("suv", "narrower", "car"),
            Entry("vehicle", "broader", "car"),
            Entry("banner", "drop"),
        ),
        "b": (Entry("drop", "same", "drop"),),
    },
)


def test_coverage_and_experts() -> None:
    np.testing.assert_array_equal(label_space.coverage(SPACE), [[True, False], [False, True], [True, False]])
    assert label_space.experts(SPACE) == {"car": ("a",), "drop": ("b",), "person": ("a",)}


def test_map_detections() -> None:
    found = detections.make(
        [2, 1, 1, 1, 1],
        [[0, 0, i + 1, 1] for i in range(5)],
        [0.9, 0.2, 0.4, 0.8, 0.6],
        [0, 1, 2, 3, 0],
    )
    mapped = label_space.map_detections(SPACE, "a", found)
    np.testing.assert_array_equal(mapped.image_id, [1, 1, 2])
    np.testing.assert_array_equal(mapped.score, np.array([0.6, 0.2, 0.9], np.float32))
    np.testing.assert_array_equal(mapped.class_id, [2, 0, 2])
    np.testing.assert_array_equal(mapped.boxes[:, 2], [5, 2, 1])
    assert mapped.class_id.dtype == np.int32
    assert len(label_space.map_detections(SPACE, "a", detections.empty())) == 0


@pytest.mark.parametrize(
    ("teacher", "class_id", "text"),
    [("a", 4, "4 classes"), ("a", -1, "4 classes"), ("z", 0, "does not know teacher 'z'")],
)
def test_map_detections_errors(teacher: str, class_id: int, text: str) -> None:
    with pytest.raises(UserError, match=text):
        label_space.map_detections(SPACE, teacher, detections.make([0], [[0, 0, 1, 1]], [0.5], [class_id]))


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_mapping_a_part_is_a_part_of_the_mapping(classes: list[int], seed: int) -> None:
    """Shards and row order do not matter."""
    random = np.random.default_rng(seed)
    count = len(classes)
    corner = random.uniform(0, 10, (count, 2))
    found = detections.make(
        random.integers(0, 3, count), np.hstack([corner, corner + 1]), random.uniform(size=count), classes
    )
    whole = label_space.map_detections(SPACE, "a", found)
    split = random.integers(0, 2, count).astype(bool)
    parts = [label_space.map_detections(SPACE, "a", found[mask]) for mask in (split, ~split)]
    joined = detections.sort(detections.concatenate(parts))
    np.testing.assert_array_equal(whole.boxes, joined.boxes)
    np.testing.assert_array_equal(whole.class_id, joined.class_id)
