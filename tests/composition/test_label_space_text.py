"""The label space as a file that a person edits."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from composition.errors import UserError
from composition.label_space import Comments, Entry, LabelSpace, Relation, dump_yaml, parse_yaml

VOCABULARIES = {"a": ["person", "suv", "0"], "b": ["drop", "vehicle"]}
GOOD = """\
classes:
  - person
  - car
  - 0
teachers:
  b:
    vehicle: {broader: car}
    drop: {same: car}
  a:
    suv:
      narrower: car
    person: person
    0: drop
"""
SPACE = LabelSpace(
    ("person", "car", "0"),
    {
        "a": (Entry("person", "same", "person"), Entry("suv", "narrower", "car"), Entry("0", "drop")),
        "b": (Entry("drop", "same", "car"), Entry("vehicle", "broader", "car")),
    },
)


def test_parse() -> None:
    assert parse_yaml(GOOD, "space.yaml", VOCABULARIES) == SPACE


def test_dump_reads_like_the_example() -> None:
    text = dump_yaml(SPACE)
    assert "    suv: {narrower: car}\n" in text
    assert "    '0': drop\n" in text
    assert parse_yaml(text, "space.yaml", VOCABULARIES) == SPACE
    assert dump_yaml(parse_yaml(text, "space.yaml", VOCABULARIES)) == text


def test_header_example_is_valid() -> None:
    header = [line[4:].split("    ")[0] for line in dump_yaml(SPACE).splitlines() if line.startswith("#   ")]
    body = "classes: [car, bus, couch]\nteachers:\n  t:\n" + "\n".join(f"    {line}" for line in header)
    space = parse_yaml(body, "header", {"t": ["sofa", "suv", "vehicle", "banner"]})
    assert [entry.relation for entry in space.teachers["t"]] == ["same", "narrower", "broader", "drop"]


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("  - car\n", "  - person\n", 3, "class 'person' appears twice (first in line 2)"),
        ("  - car\n", "  - ''\n", 3, "class is empty"),
        ("  - car\n", "  - [car]\n", 3, "class must be a name"),
        ("  - car\n", "  - ~\n", 3, "class is empty"),
        ("  - car\n", "  - lorry\n", 7, "'car' is not a union class"),
        ("classes:\n", "clases:\n", 1, "unknown key 'clases' (did you mean 'classes'?)"),
        ("classes:\n", "extra: 1\nclasses:\n", 1, "unknown key 'extra'"),
        ("teachers:\n", "classes:\n", 5, "key 'classes' appears twice (first in line 1)"),
        ("  b:\n", "  c:\n", 6, "unknown teacher 'c'"),
        ("  a:\n", "  b:\n", 9, "teacher 'b' appears twice (first in line 6)"),
        ("    vehicle: {broader: car}\n", "", 6, "teacher 'b': missing class: vehicle"),
        ("    person: person\n    0: drop\n", "", 9, "missing classes: person, 0"),
        ("    vehicle:", "    vehicles:", 7, "has no class 'vehicles' (did you mean 'vehicle'?)"),
        (
            "    person: person\n",
            "    person: persn\n",
            12,
            "'persn' is not a union class (did you mean 'person'?)",
        ),
        (
            "    person: person\n",
            "    person: person\n    suv: car\n",
            13,
            "'suv' appears twice (first in line 10)",
        ),
        ("    person: person\n", "    person:\n", 12, "target of 'person' is empty"),
        ("    person: person\n", "    person: [person]\n", 12, "target of 'person' must be a name"),
        ("{broader: car}", "{wider: car}", 7, "'wider' is not a relation"),
        ("{broader: car}", "{drop: car}", 7, "'drop' is not a relation with a target"),
        ("{broader: car}", "{broader: car, same: car}", 7, "exactly one relation"),
        ("{broader: car}", "{broader: car", 8, "not YAML"),
        ("{broader: car}", "{broader: drop}", 7, "'drop' is not a union class"),
        ("{broader: car}", "{broader: []}", 7, "list of targets is empty"),
        ("{broader: car}", "{broader: [car, lorry]}", 7, "'lorry' is not a union class"),
        ("{broader: car}", "\n      broader:\n        - car\n        - car", 10, "'car' appears twice"),
        ("{broader: car}", "{broader: [car, {}]}", 7, "target of 'vehicle' must be a name"),
        ("{same: car}", "{same: [car, person]}", 8, "'same' takes one target, not 2"),
        ("{same: car}", "{narower: car}", 8, "not a relation with a target (did you mean 'narrower'?)"),
        ("{same: car}", "{}", 8, "exactly one relation"),
        # the hierarchy
        ("teachers:\n", "parents: {car: lorry}\nteachers:\n", 5, "parents: 'lorry' is not a union class"),
        ("teachers:\n", "parents: {cars: person}\nteachers:\n", 5, "(did you mean 'car'?)"),
        ("teachers:\n", "parents: {car: car}\nteachers:\n", 5, "circle: car -> car"),
        (
            "teachers:\n",
            "parents:\n  car: person\n  person: 0\n  0: car\nteachers:\n",
            8,
            "circle: car -> person -> 0 -> car",
        ),
        ("teachers:\n", "parents:\n  car: 0\n  car: person\nteachers:\n", 7, "'car' appears twice"),
        ("teachers:\n", "parents:\n  car: [person, 0]\nteachers:\n", 6, "parent of 'car' must be a name"),
        ("teachers:\n", "parents: [car]\nteachers:\n", 5, "parents must be a mapping"),
        ("teachers:\n", "parent: {car: 0}\nteachers:\n", 5, "'parent' (did you mean 'parents'?)"),
        # slips of somebody who types
        ("  - car\n", " - car\n", 3, "indentation does not fit"),
        ("  - car\n", "  - car\n    - bus\n", 3, "class 'car - bus' runs over two lines"),
        ("    drop: {same", "   drop: {same", 8, "indentation does not fit"),
        ("    drop: {same", "      drop: {same", 8, "indentation does not fit"),
        ("    drop: {same", "\tdrop: {same", 8, "a tab where spaces are expected"),
        ("    person: person\n", "    person person\n", 12, "a line without `: `"),
        ("    person: person\n", "    person: 'person\n", 12, "a quotation mark is not closed"),
        ("    person: person\n    0: drop\n", "  person: person\n", 9, "missing classes: person, 0"),
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, text: str) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(UserError) as caught:
        parse_yaml(GOOD.replace(old, new, 1), "my/space.yaml", VOCABULARIES)
    assert caught.value.problem.startswith(f"my/space.yaml:{line}: ")
    assert text in caught.value.problem


def test_hierarchy_and_several_targets() -> None:
    text = """\
classes: [vehicle, car, bus]
parents:
  car: vehicle
  bus: vehicle
teachers:
  a:
    fleet: {broader: [car, bus]}
"""
    space = parse_yaml(text, "s.yaml", {"a": ["fleet"]})
    assert space.parents == {"car": "vehicle", "bus": "vehicle"}
    assert space.teachers["a"] == (Entry("fleet", "broader", "bus", "car"),)
    assert "    fleet: {broader: [bus, car]}\n" in dump_yaml(space)
    empty = text.replace("  car: vehicle\n  bus: vehicle\n", "  # car: vehicle\n")
    assert parse_yaml(empty, "s.yaml", {"a": ["fleet"]}).parents == {}


def test_comments_stand_where_they_belong() -> None:
    notes = Comments(["top"], ["car: person"], {("a", "suv"): ["first", "second"]})
    text = dump_yaml(SPACE, notes)
    assert "#\n" not in text
    assert "# top\nclasses:\n" in text
    assert "  - '0'\n# car: person\nteachers:\n" in text
    assert "    # first\n    # second\n    suv: {narrower: car}\n" in text
    assert parse_yaml(text, "space.yaml", VOCABULARIES) == SPACE


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("", "empty"),
        ("- a\n", ":1: the file must be a mapping"),
        ("classes: [a]\n", ":1: key 'teachers' is missing"),
        ("classes: []\nteachers: {}\n", ":1: classes must be a list"),
        ("classes: a\nteachers: {}\n", ":1: classes must be a list"),
        ("classes: [a]\nteachers: []\n", ":2: teachers must be a mapping"),
        ("classes: [a]\nteachers: {}\n", ":2: missing teachers: a, b"),
        ("classes: [a]\nteachers:\n  a: drop\n", ":3: teacher 'a' must be a mapping"),
        ("classes: [a]\nteachers:\n  a:\n  b: {}\n", ":3: teacher 'a' must be a mapping, but it is empty"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("x: *nowhere\n", "not YAML"),
        ("\tclasses: 1", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_documents_that_are_no_label_space(document: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(document, "s.yaml", VOCABULARIES)
    assert text in caught.value.problem


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
    | st.sampled_from(
        ["drop", "no", "null", "~", "1.0", "0x1F", "a: b", "a, b", "# x", "- x", "{a}", "<<", "*", "?"]
    ),
    min_size=1,
    max_size=6,
    unique=True,
)


def _some(classes: list[str], relation: Relation, position: int) -> list[str]:
    if relation == "drop":
        return []
    count = 2 if relation == "broader" and len(classes) > 1 else 1
    return [classes[(position + i) % len(classes)] for i in range(count)]


@given(
    NAMES,
    NAMES,
    st.lists(st.sampled_from(["same", "narrower", "broader", "drop"]), min_size=6, max_size=6),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=150)
def test_any_names_survive_the_file(
    classes: list[str], vocabulary: list[str], relations: list[Relation], parented: int
) -> None:
    entries = tuple(
        Entry(name, relation, *_some(classes, relation, position))
        for position, (name, relation) in enumerate(zip(vocabulary, relations, strict=False))
    )
    parents = dict(zip(classes[parented:], classes, strict=False)) if parented else {}
    space = LabelSpace(tuple(classes), {"t": entries}, parents)
    notes = Comments(classes, vocabulary, {("t", name): classes for name in vocabulary})
    assert parse_yaml(dump_yaml(space, notes), "s.yaml", {"t": vocabulary}) == space
    text = dump_yaml(space)
    assert parse_yaml(text, "s.yaml", {"t": vocabulary}) == space
    # other YAML readers see the same names
    assert yaml.safe_load(text)["classes"] == classes
