"""What discovered relations mean for a label space, and the file that offers them to a person."""

from __future__ import annotations

import json

import pytest

from composition import label_space
from composition.discovery import Direction, Kind, Proposal
from composition.discovery.suggestions import Accept, Suggestion, accept, comments, suggest, unmatched
from composition.label_space import Entry, LabelSpace, dump_yaml, parse_yaml

VOCABULARIES = {"fine": ["cat", "dog", "car", "sofa"], "coarse": ["class_0", "class_1", "couch"]}
SPACE = label_space.build(VOCABULARIES)


def _proposal(
    first: int, second: int, relation: Kind = "same", confident: bool = True, p_value: float = 0.01
) -> Proposal:
    direction = Direction(12, 11, 10, 9, 9, 0.9, 0.61, 0.75)
    return Proposal(first, second, relation, confident, p_value, direction, direction)


def _suggest(*proposals: Proposal) -> list[Suggestion]:
    return suggest(SPACE, "fine", "coarse", proposals)


def test_status() -> None:
    found = _suggest(_proposal(2, 1), _proposal(3, 2), _proposal(0, 2), _proposal(0, 0, "broader"))
    assert [s.status for s in found] == ["proposed", "confirmed", "contradicts names", "proposed"]
    assert [(s.source, s.target) for s in found[:1]] == [("class_1", "car")]
    # the narrower class is the one that gets a parent
    assert (found[3].source, found[3].target) == ("cat", "class_0")
    assert json.loads(json.dumps(found[0].to_dict()))["other_class"] == "car"


ANIMAL = (_proposal(0, 0, "broader"), _proposal(1, 0, "broader", confident=False, p_value=0.3))
CAR = _proposal(2, 1)


@pytest.mark.parametrize(
    ("which", "classes", "parents"),
    [
        ("none", ("cat", "dog", "car", "couch", "class_0", "class_1"), {}),
        ("confident", ("cat", "dog", "car", "couch", "class_0"), {"cat": "class_0"}),
        ("all", ("cat", "dog", "car", "couch", "class_0"), {"cat": "class_0", "dog": "class_0"}),
    ],
)
def test_accept(which: Accept, classes: tuple[str, ...], parents: dict[str, str]) -> None:
    space = accept(SPACE, _suggest(*ANIMAL, CAR), which)
    assert space.classes == classes
    assert space.parents == parents
    assert (space.teachers["coarse"][1] == Entry("class_1", "same", "car")) is (which != "none")
    # what was accepted is confirmed when it is looked at again
    again = suggest(space, "fine", "coarse", [*ANIMAL, CAR])
    assert sum(s.status == "confirmed" for s in again) == {"none": 0, "confident": 2, "all": 3}[which]


def test_two_classes_of_one_teacher_are_never_merged() -> None:
    space = accept(SPACE, _suggest(CAR, _proposal(2, 0, p_value=0.04)), "all")
    assert space.classes == ("cat", "dog", "car", "couch", "class_0")


def test_chains_of_three_teachers() -> None:
    space = label_space.build({"a": ["x"], "b": ["y"], "c": ["z"]})
    pairs = [*suggest(space, "b", "c", [_proposal(0, 0)]), *suggest(space, "a", "b", [_proposal(0, 0)])]
    merged = accept(space, pairs, "confident")
    assert merged.classes == ("x",)
    assert label_space.experts(merged) == {"x": ("a", "b", "c")}


def test_parents_never_go_round_in_a_circle() -> None:
    space = label_space.build({"a": ["x"], "b": ["y"]})
    both = suggest(space, "a", "b", [_proposal(0, 0, "broader"), _proposal(0, 0, "narrower", p_value=0.02)])
    assert accept(space, both, "all").parents == {"x": "y"}


def test_the_file_offers_what_was_found() -> None:
    text = dump_yaml(SPACE, comments(SPACE, _suggest(*ANIMAL, CAR, _proposal(0, 2))))
    assert parse_yaml(text, "s.yaml", VOCABULARIES) == SPACE
    assert "# doubt: coarse 'couch' behaves like fine 'cat'" in text
    assert "    # class_1: car    # proposed, confident:\n" in text
    assert "fine 'car': 12 boxes, 10 answered, 9 as coarse 'class_1' (lower bound 61 %)" in text
    assert "#   cat: class_0    # proposed, confident:\n" in text
    assert "#   dog: class_0    # proposed, unsure:\n" in text
    assert "class_0: {broader: [cat, dog]}" in text


def test_taking_the_offers_is_removing_the_hash_marks() -> None:
    text = dump_yaml(SPACE, comments(SPACE, _suggest(*ANIMAL, CAR)))
    start = text.index("# parents:")
    block = text[start : text.index("teachers:\n")]
    text = text.replace(block, "".join(f"{line[2:]}\n" for line in block.splitlines()))
    text = text.replace("    # class_1: car ", "    class_1: car ").replace("    class_1: class_1\n", "")
    space = parse_yaml(text.replace("  - class_1\n", ""), "s.yaml", VOCABULARIES)
    assert space == accept(SPACE, _suggest(*ANIMAL, CAR), "all")


def test_unmatched() -> None:
    assert unmatched(SPACE, _suggest(CAR)) == [("fine", "cat"), ("fine", "dog"), ("coarse", "class_0")]


def test_dropped_classes_get_no_suggestions() -> None:
    space = LabelSpace(("cat",), {"a": (Entry("cat", "same", "cat"),), "b": (Entry("x", "drop"),)})
    assert suggest(space, "a", "b", [_proposal(0, 0)]) == []
