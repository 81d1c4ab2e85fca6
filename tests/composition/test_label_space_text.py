"""The label space as a file that a person edits."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from composition.errors import UserError
from composition.label_space import Entry, LabelSpace, Relation, dump_yaml, parse_yaml

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
        "a": (Entry("person", "same", "person"), Entry("suv", "narrower", "car"), Entry("0", "drop", None)),
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
    header = [line[4:].split("   ")[0] for line in dump_yaml(SPACE).splitlines() if line.startswith("#   ")]
    body = "classes: [car, couch]\nteachers:\n  t:\n" + "\n".join(f"    {line}" for line in header)
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
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, text: str) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(UserError) as caught:
        parse_yaml(GOOD.replace(old, new, 1), "my/space.yaml", VOCABULARIES)
    assert caught.value.problem.startswith(f"my/space.yaml:{line}: ")
    assert text in caught.value.problem


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


@given(
    NAMES, NAMES, st.lists(st.sampled_from(["same", "narrower", "broader", "drop"]), min_size=6, max_size=6)
)
@settings(deadline=None, max_examples=150)
def test_any_names_survive_the_file(
    classes: list[str], vocabulary: list[str], relations: list[Relation]
) -> None:
    entries = tuple(
        Entry(name, relation, None if relation == "drop" else classes[position % len(classes)])
        for position, (name, relation) in enumerate(zip(vocabulary, relations, strict=False))
    )
    space = LabelSpace(tuple(classes), {"t": entries})
    text = dump_yaml(space)
    assert parse_yaml(text, "s.yaml", {"t": vocabulary}) == space
    # other YAML readers see the same names
    assert yaml.safe_load(text)["classes"] == classes
