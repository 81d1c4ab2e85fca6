"""The label space as JSON, and its identity."""

from __future__ import annotations

import json
from typing import Any

import pytest

from composition import label_space
from composition.errors import UserError
from composition.label_space import Entry, LabelSpace

SPACE = LabelSpace(
    ("vehicle", "car", "bus", "person"),
    {
        "a": (
            Entry("person", "same", "person"),
            Entry("suv", "narrower", "car"),
            Entry("fleet", "broader", "car", "bus"),
            Entry("banner", "drop"),
        ),
        "b": (Entry("vehicle", "same", "vehicle"),),
    },
    {"car": "vehicle", "bus": "vehicle"},
)


def test_round_trip() -> None:
    document = json.loads(json.dumps(label_space.to_json(SPACE)))
    assert document["version"] == 2
    again = label_space.from_json(document)
    assert again == SPACE
    assert label_space.digest(again) == label_space.digest(SPACE)


def test_version_1_is_read_as_what_it_meant() -> None:
    document: dict[str, Any] = {
        "version": 1,
        "classes": ["car"],
        "teachers": [
            {
                "name": "a",
                "classes": [
                    {"class": "suv", "relation": "narrower", "target": "car"},
                    {"class": "banner", "relation": "drop", "target": None},
                ],
            }
        ],
    }
    space = label_space.from_json(document)
    expected = LabelSpace(("car",), {"a": (Entry("suv", "narrower", "car"), Entry("banner", "drop"))})
    assert space == expected
    assert label_space.digest(space) == label_space.digest(expected)


def test_order_counts_where_it_has_a_meaning() -> None:
    # the order of the teachers is the order of their bits, that of the classes is their id
    turned = LabelSpace(SPACE.classes, dict(reversed(SPACE.teachers.items())), SPACE.parents)
    assert label_space.digest(turned) != label_space.digest(SPACE)
    turned = LabelSpace(SPACE.classes[::-1], SPACE.teachers, SPACE.parents)
    assert label_space.digest(turned) != label_space.digest(SPACE)
    # the order of parents and of targets means nothing
    assert Entry("fleet", "broader", "bus", "car") == Entry("fleet", "broader", "car", "bus")
    turned = LabelSpace(SPACE.classes, SPACE.teachers, dict(reversed(SPACE.parents.items())))
    assert label_space.digest(turned) == label_space.digest(SPACE)
    assert label_space.digest(LabelSpace(SPACE.classes, SPACE.teachers)) != label_space.digest(SPACE)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "version"),
        ({"version": 3}, "version 3 is not known"),
        ({"version": 1, "classes": ["a"]}, "not a label space"),
        ({"version": 2, "classes": ["a"], "teachers": []}, "not a label space"),
        ({"version": 1, "classes": ["a"], "teachers": [{"name": "t"}]}, "not a label space"),
        ({"version": 1, "classes": ["a", "a"], "teachers": []}, "appears twice"),
        ({"version": 2, "classes": ["a"], "teachers": [], "parents": [1]}, "not a label space"),
        (
            {"version": 2, "classes": ["a"], "teachers": [], "parents": {"a": "b"}},
            "'b', which is not a union",
        ),
        ({"version": 2, "classes": ["a"], "teachers": [], "parents": {"a": "a"}}, "a -> a"),
    ],
)
def test_from_json_errors(document: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        label_space.from_json(document)


@pytest.mark.parametrize(
    ("relation", "targets", "text"),
    [
        ("same", [], "needs a target"),
        ("broader", [], "needs a target"),
        ("drop", ["car"], "takes no target"),
        ("wider", ["car"], "not a relation"),
        ("same", ["car", "bus"], "takes one target"),
        ("narrower", ["car", "bus"], "takes one target"),
        ("broader", ["car", "car"], "appears twice"),
        ("same", ["cat"], "did you mean 'car'"),
        ("same", "car", "not a label space"),
    ],
)
def test_entries_are_checked(relation: str, targets: list[str], text: str) -> None:
    document = label_space.to_json(SPACE)
    document["teachers"][0]["classes"][0] = {"class": "person", "relation": relation, "targets": targets}
    with pytest.raises(UserError, match=text):
        label_space.from_json(document)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ((Entry("a", "same", "cat"), Entry("a", "drop")), "has 'a' twice"),
        ((Entry("a", "same", "dog"),), "not a union class"),
        ((Entry("a", "broader", "cat", "dog"),), "not a union class"),
    ],
)
def test_spaces_are_checked(entries: tuple[Entry, ...], text: str) -> None:
    with pytest.raises(UserError, match=text):
        LabelSpace(("cat",), {"t": entries})
