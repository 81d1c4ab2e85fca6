"""The label space as YAML that a person edits, with line-numbered errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from composition.aliases import suggestion
from composition.label_space.build import DROP, as_relation
from composition.label_space.reader import EXAMPLE, Reader
from composition.label_space.space import RELATIONS, Entry, LabelSpace, find_circle

HEADER = """\
# A label space: the union classes in order, and what becomes of every class of
# every teacher (each exactly once):
#   sofa: couch                       the same class
#   suv: {narrower: car}              a kind of it: its boxes are boxes of car
#   vehicle: {broader: [car, bus]}    they are kinds of it: its boxes may be either's
#   banner: drop                      not wanted
# A further key may say which union classes are kinds of others, for example
# `parents: {car: vehicle}`; a box of car is then a box of vehicle, too.
"""
KEYS = ("classes", "parents", "teachers")


@dataclass(frozen=True, slots=True)
class Comments:
    """What `dump_yaml` writes beside the label space, for a person to read.

    Attributes:
        top: Lines below the header.
        parents: Lines at the end of ``parents``, or in its place.
        entries: Teacher and teacher class to the lines above that entry.
    """

    top: Sequence[str] = ()
    parents: Sequence[str] = ()
    entries: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)


def dump_yaml(space: LabelSpace, comments: Comments | None = None) -> str:
    """Writes the file that `parse_yaml` reads.

    Args:
        space: The label space.
        comments: Notes of one line each; they change nothing that is read back.

    Returns:
        The text; equal spaces and comments give equal text.
    """
    notes = comments or Comments()
    lines = [HEADER.rstrip(), *_notes(notes.top), "classes:"]
    lines += [f"  - {scalar(name)}" for name in space.classes]
    if space.parents:
        ordered = [name for name in space.classes if name in space.parents]
        lines.append("parents:")
        lines += [f"  {scalar(name)}: {scalar(space.parents[name])}" for name in ordered]
    lines += _notes(notes.parents)
    lines.append("teachers:")
    for teacher, entries in space.teachers.items():
        lines.append(f"  {scalar(teacher)}:")
        for entry in entries:
            lines += _notes(notes.entries.get((teacher, entry.teacher_class), ()), "    ")
            lines.append(f"    {entry_line(entry)}")
    return "\n".join(lines) + "\n"


def _notes(lines: Sequence[str], indent: str = "") -> list[str]:
    # a name with a line break must not end the comment
    return [f"{indent}# {''.join(c if c.isprintable() else '?' for c in line)}".rstrip() for line in lines]


def entry_line(entry: Entry) -> str:
    """An entry as it stands in the file: ``teacher class: ...``."""
    return f"{scalar(entry.teacher_class)}: {_value(entry)}"


def _value(entry: Entry) -> str:
    if entry.relation == "drop":
        return DROP
    first = scalar(entry.targets[0])
    if entry.relation == "same" and entry.targets[0] != DROP:
        return first
    if len(entry.targets) > 1:
        first = f"[{', '.join(map(scalar, entry.targets))}]"
    return f"{{{entry.relation}: {first}}}"


def scalar(name: str) -> str:
    """One line of YAML that reads as this string everywhere, in flow style too."""
    if not name.isprintable():
        escaped = [c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in name]
        return f'"{"".join(escaped)}"'
    text: str = yaml.safe_dump([name], default_flow_style=True, width=10**9, allow_unicode=True)
    return text.strip()[1:-1]


def parse_yaml(text: str, source: str, vocabularies: Mapping[str, Sequence[str]]) -> LabelSpace:
    """Reads a label space and holds it against the teachers' vocabularies.

    Args:
        text: The YAML document.
        source: Name of the file, for the errors.
        vocabularies: Teacher name to its class names, in order.

    Returns:
        The label space, teachers and classes in the order of ``vocabularies``.

    Raises:
        UserError: ``source:line: problem`` for a syntax error, an unknown or
            missing key, teacher or class, a duplicate, an unknown relation or
            target.
    """
    reader = Reader(source)
    root = reader.root(text)
    sections: dict[str, yaml.Node] = {}
    for key_node, key, value in reader.items(root, "key"):
        if key not in KEYS:
            raise reader.error(
                key_node,
                f"unknown key {key!r}" + suggestion(key, KEYS),
                "A label space has the keys `classes` and `teachers`, and perhaps `parents`.",
            )
        sections[key] = value
    for key in ("classes", "teachers"):
        if key not in sections:
            raise reader.error(
                root, f"key {key!r} is missing", "A label space has the keys `classes` and `teachers`."
            )
    classes = _classes(reader, sections["classes"])
    found: dict[str, tuple[Entry, ...]] = {}
    node = reader.mapping(sections["teachers"], "teachers")
    for key_node, teacher, value in reader.items(node, "teacher"):
        if teacher not in vocabularies:
            raise reader.error(
                key_node,
                f"unknown teacher {teacher!r}" + suggestion(teacher, list(vocabularies)),
                f"The teachers are: {', '.join(vocabularies)}.",
            )
        found[teacher] = _teacher(reader, key_node, teacher, value, vocabularies[teacher], classes)
    missing = [teacher for teacher in vocabularies if teacher not in found]
    if missing:
        raise reader.error(
            node,
            f"missing teacher{'s' if len(missing) > 1 else ''}: {', '.join(missing)}",
            "Add a section with every class of it.",
        )
    parents = _parents(reader, sections["parents"], classes) if "parents" in sections else {}
    return LabelSpace(classes, {teacher: found[teacher] for teacher in vocabularies}, parents)


def _classes(reader: Reader, node: yaml.Node) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise reader.error(
            node, "classes must be a list with at least one name", "Write one `- name` a line."
        )
    lines: dict[str, int] = {}
    for item in node.value:
        name = reader.text(item, "class")
        if name in lines:
            raise reader.error(
                item, f"class {name!r} appears twice (first in line {lines[name]})", "Keep one of them."
            )
        lines[name] = item.start_mark.line + 1
    return tuple(lines)


def _parents(reader: Reader, node: yaml.Node, classes: Sequence[str]) -> dict[str, str]:
    parents: dict[str, str] = {}
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
        return parents  # all lines below the key are comments
    for child_node, child, parent_node in reader.items(reader.mapping(node, "parents"), "class in parents"):
        parent = reader.text(parent_node, f"parent of {child!r}")
        for name, where in ((child, child_node), (parent, parent_node)):
            _check_union_class(reader, where, name, classes, "parents: ")
        parents[child] = parent
        circle = find_circle(parents)
        if circle:
            raise reader.error(
                child_node,
                f"parents go round in a circle: {' -> '.join(circle)}",
                "A class cannot be a kind of itself: remove one of these lines.",
            )
    return parents


def _check_union_class(
    reader: Reader, node: yaml.Node, name: str, classes: Sequence[str], where: str
) -> None:
    if name not in classes:
        raise reader.error(
            node,
            f"{where}{name!r} is not a union class" + suggestion(name, classes),
            "Use one of `classes`, or add it there.",
        )


def _teacher(
    reader: Reader,
    key_node: yaml.Node,
    teacher: str,
    node: yaml.Node,
    vocabulary: Sequence[str],
    classes: Sequence[str],
) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    section = reader.mapping(node, f"teacher {teacher!r}")
    for class_node, name, value in reader.items(section, f"class of {teacher!r}"):
        if name not in vocabulary:
            raise reader.error(
                class_node,
                f"teacher {teacher!r} has no class {name!r}" + suggestion(name, vocabulary),
                "Use the class name exactly as the teacher spells it.",
            )
        entries[name] = _entry(reader, name, value, classes)
    missing = [name for name in vocabulary if name not in entries]
    if missing:
        raise reader.error(
            key_node,
            f"teacher {teacher!r}: missing class{'es' if len(missing) > 1 else ''}: {', '.join(missing)}",
            "Every teacher class must appear; write `drop` for those that are not wanted.",
        )
    return tuple(entries[name] for name in vocabulary)


def _entry(reader: Reader, name: str, node: yaml.Node, classes: Sequence[str]) -> Entry:
    if not isinstance(node, yaml.MappingNode):
        target = reader.text(node, f"target of {name!r}")
        if target == DROP:
            return Entry(name, "drop")
        _check_union_class(reader, node, target, classes, f"class {name!r}: ")
        return Entry(name, "same", target)
    if len(node.value) != 1:
        raise reader.error(node, f"class {name!r} must have exactly one relation", EXAMPLE)
    relation_node, target_node = node.value[0]
    relation = reader.text(relation_node, f"relation of {name!r}")
    if relation not in RELATIONS or relation == DROP:
        raise reader.error(
            relation_node,
            f"class {name!r}: {relation!r} is not a relation with a target"
            + suggestion(relation, [known for known in RELATIONS if known != DROP]),
            EXAMPLE,
        )
    return Entry(name, as_relation(relation), *_targets(reader, name, relation, target_node, classes))


def _targets(reader: Reader, name: str, relation: str, node: yaml.Node, classes: Sequence[str]) -> list[str]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes:
        raise reader.error(node, f"class {name!r}: the list of targets is empty", EXAMPLE)
    if len(nodes) > 1 and relation != "broader":
        raise reader.error(
            node,
            f"class {name!r}: {relation!r} takes one target, not {len(nodes)}",
            "Only `broader` takes several; name the narrowest class, and put those around it into `parents`.",
        )
    targets: list[str] = []
    for item in nodes:
        target = reader.text(item, f"target of {name!r}")
        _check_union_class(reader, item, target, classes, f"class {name!r}: ")
        if target in targets:
            raise reader.error(item, f"class {name!r}: target {target!r} appears twice", "Keep one of them.")
        targets.append(target)
    return targets
