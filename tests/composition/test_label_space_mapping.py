"""Hierarchies: positives, ignore regions, related classes, and one mapping after another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections, label_space
from composition.detections import Detections
from composition.errors import UserError
from composition.label_space import Entry, LabelSpace, Relation

CLASSES = ("vehicle", "car", "bus", "taxi", "person")
PARENTS = {"car": "vehicle", "bus": "vehicle", "taxi": "car"}


def _space(*entries: Entry, parents: dict[str, str] = PARENTS) -> LabelSpace:
    return LabelSpace(CLASSES, {"t": entries}, parents)


def _names(space: LabelSpace, found: Detections) -> list[str]:
    return [space.classes[class_id] for class_id in found.class_id]


BOX = detections.make([7], [[1, 2, 3, 4]], [0.5], [0])


@pytest.mark.parametrize(
    ("entry", "positive", "ignored"),
    [
        # its target and everything that the target is a kind of
        (Entry("x", "same", "car"), ["vehicle", "car"], ["taxi"]),
        (Entry("x", "same", "taxi"), ["vehicle", "car", "taxi"], []),
        # a box of a parent may be a box of any child
        (Entry("x", "same", "vehicle"), ["vehicle"], ["car", "bus", "taxi"]),
        (Entry("x", "narrower", "vehicle"), ["vehicle"], ["car", "bus", "taxi"]),
        # wider than some children: no wider than their nearest common parent
        (Entry("x", "broader", "car", "bus"), ["vehicle"], ["car", "bus", "taxi"]),
        (Entry("x", "broader", "taxi"), ["vehicle", "car"], ["taxi"]),
        (Entry("x", "broader", "taxi", "bus"), ["vehicle"], ["car", "bus", "taxi"]),
        # wider than the parent itself
        (Entry("x", "broader", "vehicle"), [], ["vehicle", "car", "bus", "taxi"]),
        (Entry("x", "broader", "car", "person"), [], ["car", "taxi", "person"]),
        (Entry("x", "broader", "car", "vehicle"), [], ["vehicle", "car", "bus", "taxi"]),
        (Entry("x", "drop"), [], []),
    ],
)
def test_positives_and_ignore_regions(entry: Entry, positive: list[str], ignored: list[str]) -> None:
    space = _space(entry)
    mapped = label_space.map_detections(space, "t", BOX)
    assert _names(space, mapped) == positive
    regions = label_space.ignore_regions(space, "t", BOX)
    assert _names(space, regions) == ignored
    for table in (mapped, regions):
        assert set(table.image_id.tolist()) <= {7}
        assert set(table.score.tolist()) <= {0.5}
        assert (table.boxes == BOX.boxes).all()
        assert table.class_id.dtype == np.int32


@pytest.mark.parametrize(
    ("entry", "ignored"),
    [
        (Entry("x", "broader", "car", "bus"), ["car", "bus"]),
        (Entry("x", "drop"), []),
        (Entry("x", "same", "car"), []),
    ],
)
def test_without_a_hierarchy(entry: Entry, ignored: list[str]) -> None:
    space = _space(entry, parents={})
    assert _names(space, label_space.ignore_regions(space, "t", BOX)) == ignored
    assert _names(space, label_space.map_detections(space, "t", BOX)) == (
        [entry.target] if entry.target else []
    )


def test_a_teacher_speaks_for_the_children_that_it_has_itself() -> None:
    space = _space(Entry("vehicle", "same", "vehicle"), Entry("car", "same", "car"))
    assert _names(space, label_space.ignore_regions(space, "t", BOX)) == ["bus", "taxi"]
    # a class that it is told to leave open stays open
    space = _space(Entry("vehicle", "broader", "car", "bus"), Entry("car", "same", "car"))
    assert _names(space, label_space.ignore_regions(space, "t", BOX)) == ["car", "bus", "taxi"]
    # one kind of car is not all cars
    space = _space(Entry("vehicle", "same", "vehicle"), Entry("suv", "narrower", "car"))
    assert _names(space, label_space.ignore_regions(space, "t", BOX)) == ["car", "bus", "taxi"]


def test_relations_coverage_and_related() -> None:
    space = LabelSpace(
        CLASSES,
        {
            "a": (Entry("car", "same", "car"), Entry("child", "narrower", "person")),
            "b": (Entry("thing", "broader", "vehicle"), Entry("person", "same", "person")),
        },
        PARENTS,
    )
    assert label_space.relations(space) == (
        ("narrower", "broader"),
        ("same", "broader"),
        ("none", "broader"),
        ("broader", "broader"),
        ("narrower", "same"),
    )
    np.testing.assert_array_equal(
        label_space.coverage(space),
        [[True, False], [True, False], [False, False], [False, False], [True, True]],
    )
    expected = np.zeros((5, 5), bool)
    for child, parent in [(1, 0), (2, 0), (3, 0), (3, 1)]:
        expected[child, parent] = expected[parent, child] = True
    np.testing.assert_array_equal(label_space.related(space), expected)
    assert label_space.relations(LabelSpace(("a", "b"), {})) == ((), ())


def test_bad_class_ids_and_teachers() -> None:
    space = _space(Entry("x", "drop"))
    for function in (label_space.map_detections, label_space.ignore_regions):
        with pytest.raises(UserError, match="1 classes"):
            function(space, "t", detections.make([0], [[0, 0, 1, 1]], [0.5], [1]))
        with pytest.raises(UserError, match="does not know teacher 'u'"):
            function(space, "u", BOX)
        assert len(function(space, "t", detections.empty())) == 0


@st.composite
def spaces(draw: st.DrawFn, prefix: str, vocabulary: list[str], hierarchy: bool = True) -> LabelSpace:
    """One teacher ``t`` with a vocabulary, random relations to up to six classes."""
    classes = [f"{prefix}{i}" for i in range(draw(st.integers(1, 6)))]
    parents = {}
    for position, name in enumerate(classes[1:] if hierarchy else [], start=1):
        above = draw(st.none() | st.integers(0, position - 1))
        if above is not None:
            parents[name] = classes[above]
    entries = []
    for name in vocabulary:
        relation: Relation = draw(st.sampled_from(["same", "narrower", "broader", "drop"]))
        most = {"drop": 0, "broader": len(classes)}.get(relation, 1)
        targets = draw(st.lists(st.sampled_from(classes), min_size=min(1, most), max_size=most, unique=True))
        entries.append(Entry(name, relation, *targets))
    return LabelSpace(tuple(classes), {"t": tuple(entries)}, parents)


@st.composite
def tables(draw: st.DrawFn, classes: int) -> Detections:
    """Distinct boxes of random classes."""
    ids = draw(st.lists(st.integers(0, classes - 1), max_size=12))
    boxes = [[i, 0, i + 1, 1] for i in range(len(ids))]
    return detections.make([0] * len(ids), boxes, np.linspace(0.1, 0.9, len(ids)), ids)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_no_class_is_positive_and_open_at_once(data: st.DataObject) -> None:
    space = data.draw(spaces("u", ["a", "b", "c", "d"]))
    positive, open_ = label_space.positives(space, "t"), label_space.ignored(space, "t")
    assert not (positive & open_).any()
    # ancestors of a positive are positive, so conflict handling must know them as related
    related = label_space.related(space)
    for row in positive:
        for one in np.flatnonzero(row):
            for other in np.flatnonzero(row):
                assert one == other or related[one, other]


def _rows(found: Detections) -> set[tuple[float, float, int]]:
    return set(zip(found.boxes[:, 0].tolist(), found.score.tolist(), found.class_id.tolist(), strict=True))


def _composed(first: LabelSpace, second: LabelSpace) -> LabelSpace | None:
    """None where the hierarchy is torn apart, or two steps leave open what no single entry can."""
    try:
        return label_space.compose(first, second)
    except UserError as error:
        if "in one step" not in error.problem:
            raise
        return None


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_mapping_composes(data: st.DataObject) -> None:
    """Two mappings one after the other equal the mapping through the composed label space."""
    first = data.draw(spaces("u", ["a", "b", "c", "d"], hierarchy=data.draw(st.booleans())))
    second = data.draw(spaces("v", list(first.classes)))
    found = data.draw(tables(4))
    both = _composed(first, second)
    if both is None:
        return
    step = label_space.map_detections(first, "t", found)
    stepped = label_space.map_detections(second, "t", step)
    # a box that two union classes send to one class comes twice in two steps
    assert _rows(stepped) == _rows(label_space.map_detections(both, "t", found))
    if not first.parents:
        open_ = label_space.ignore_regions(first, "t", found)
        later = [
            label_space.ignore_regions(second, "t", step),
            label_space.map_detections(second, "t", open_),
            label_space.ignore_regions(second, "t", open_),
        ]
        wanted = set().union(*map(_rows, later)) - _rows(stepped)
        assert wanted <= _rows(label_space.ignore_regions(both, "t", found))


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_same_and_narrower_always_compose(data: st.DataObject) -> None:
    first = data.draw(spaces("u", ["a", "b", "c"], hierarchy=False))
    simple = {
        "t": tuple(
            e if e.relation != "broader" else Entry(e.teacher_class, "drop") for e in first.teachers["t"]
        )
    }
    first = LabelSpace(first.classes, simple)
    second = data.draw(spaces("v", list(first.classes), hierarchy=False))
    label_space.compose(first, second)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (("same", "u"), ("same", "v"), ("same", ["v"])),
        (("same", "u"), ("narrower", "v"), ("narrower", ["v"])),
        (("narrower", "u"), ("same", "v"), ("narrower", ["v"])),
        (("narrower", "u"), ("broader", "v"), ("broader", ["v"])),
        (("broader", "u"), ("same", "v"), ("broader", ["v"])),
        (("broader", "u"), ("narrower", "v"), ("broader", ["v"])),
        (("same", "u"), ("drop",), ("drop", [])),
        (("drop",), ("same", "v"), ("drop", [])),
    ],
)
def test_relations_compose(
    one: tuple[Relation, str], two: tuple[Relation, str], expected: tuple[str, list[str]]
) -> None:
    first = LabelSpace(("u",), {"a": (Entry("x", *one),), "b": (Entry("y", "same", "u"),)})
    both = label_space.compose(first, LabelSpace(("v",), {"student": (Entry("u", *two),)}))
    entry = both.teachers["a"][0]
    assert (entry.relation, list(entry.targets)) == expected
    assert list(both.teachers) == ["a", "b"]


def test_compose_errors() -> None:
    first = LabelSpace(("car", "vehicle"), {"t": (Entry("car", "same", "car"),)}, {"car": "vehicle"})
    apart = (Entry("car", "same", "x"), Entry("vehicle", "same", "y"))
    with pytest.raises(UserError, match="cannot be sent through both"):
        label_space.compose(first, LabelSpace(("x", "y"), {"u": apart}))
    kept = label_space.compose(first, LabelSpace(("x", "y"), {"u": apart}, {"x": "y"}))
    assert kept.teachers["t"] == (Entry("car", "same", "x"),)
    with pytest.raises(UserError, match="one teacher, it has 2"):
        label_space.compose(first, LabelSpace(("x", "y"), {"u": apart, "w": ()}))
    with pytest.raises(UserError, match="not the list of classes"):
        label_space.compose(first, LabelSpace(("x", "y"), {"u": apart[::-1]}))
