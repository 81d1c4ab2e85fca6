"""The label space as YAML that a person edits, with line-numbered errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import yaml

from composition.aliases import suggestion
from composition.errors import UserError
from composition.label_space.build import DROP
from composition.label_space.space import RELATIONS, Entry, LabelSpace, Relation

HEADER = """\
# A label space: the union classes in order, and what becomes of every class of
# every teacher (each exactly once):
#   sofa: couch                the same class
#   suv: {narrower: car}       a kind of it: its boxes are boxes of car
#   vehicle: {broader: car}    car is a kind of it: its boxes do not become boxes of car
#   banner: drop               not wanted
"""
EXAMPLE = "Write `teacher class: union class`, `... : {narrower: union class}` or `... : drop`."


def dump_yaml(space: LabelSpace) -> str:
    """Writes the file that `parse_yaml` reads; equal spaces give equal text."""
    lines = [HEADER.rstrip(), "classes:"]
    lines += [f"  - {_scalar(name)}" for name in space.classes]
    lines.append("teachers:")
    for teacher, entries in space.teachers.items():
        lines.append(f"  {_scalar(teacher)}:")
        lines += [f"    {_scalar(entry.teacher_class)}: {_value(entry)}" for entry in entries]
    return "\n".join(lines) + "\n"


def _value(entry: Entry) -> str:
    if entry.target is None:
        return DROP
    if entry.relation == "same" and entry.target != DROP:
        return _scalar(entry.target)
    return f"{{{entry.relation}: {_scalar(entry.target)}}}"


def _scalar(name: str) -> str:
    """One line of YAML that reads as this string everywhere, in flow style too."""
    if not name.isprintable():
        escaped = [c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in name]
        return f'"{"".join(escaped)}"'
    text: str = yaml.safe_dump([name], default_flow_style=True, width=10**9, allow_unicode=True)
    return text.strip()[1:-1]


class _Reader:
    """Turns composed nodes into values; knows the source for the errors."""

    def __init__(self, source: str) -> None:
        self.source = source

    def error(self, node: yaml.Node, problem: str, way_out: str = "") -> UserError:
        return UserError(f"{self.source}:{node.start_mark.line + 1}: {problem}", way_out)

    def root(self, text: str) -> yaml.MappingNode:
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{self.source}:{line}: not YAML: {error.problem}", EXAMPLE) from None
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{self.source}: not YAML: {str(error).splitlines()[0]}", EXAMPLE) from None
        if node is None:
            raise UserError(
                f"{self.source}: the file is empty", "Write one with `detcompose label-space propose`."
            )
        return self.mapping(node, "the file")

    def mapping(self, node: yaml.Node, what: str) -> yaml.MappingNode:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} must be a mapping (`name: value` lines)", EXAMPLE)
        return node

    def text(self, node: yaml.Node, what: str) -> str:
        """A scalar as it is written: `0`, `no` and `1.0` are names like any other."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, f"{what} must be a name", EXAMPLE)
        value = str(node.value)
        if not value.strip() or (node.style is None and value in ("~", "null")):
            raise self.error(node, f"{what} is empty", EXAMPLE)
        return value

    def items(self, node: yaml.MappingNode, what: str) -> Iterator[tuple[yaml.Node, str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self.text(key_node, what)
            if key in seen:
                raise self.error(
                    key_node, f"{what} {key!r} appears twice (first in line {seen[key]})", "Keep one of them."
                )
            seen[key] = key_node.start_mark.line + 1
            yield key_node, key, value_node


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
    reader = _Reader(source)
    root = reader.root(text)
    sections: dict[str, yaml.Node] = {}
    for key_node, key, value in reader.items(root, "key"):
        if key not in ("classes", "teachers"):
            raise reader.error(
                key_node,
                f"unknown key {key!r}" + suggestion(key, ["classes", "teachers"]),
                "A label space has the keys `classes` and `teachers`.",
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
    return LabelSpace(classes, {teacher: found[teacher] for teacher in vocabularies})


def _classes(reader: _Reader, node: yaml.Node) -> tuple[str, ...]:
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


def _teacher(
    reader: _Reader,
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


def _entry(reader: _Reader, name: str, node: yaml.Node, classes: Sequence[str]) -> Entry:
    relation = "same"
    target_node = node
    if isinstance(node, yaml.MappingNode):
        if len(node.value) != 1:
            raise reader.error(node, f"class {name!r} must have exactly one relation", EXAMPLE)
        relation_node, target_node = node.value[0]
        relation = reader.text(relation_node, f"relation of {name!r}")
        if relation not in RELATIONS or relation == "drop":
            raise reader.error(
                relation_node,
                f"class {name!r}: {relation!r} is not a relation with a target"
                + suggestion(relation, RELATIONS),
                EXAMPLE,
            )
    target = reader.text(target_node, f"target of {name!r}")
    if target == DROP and target_node is node:
        return Entry(name, "drop", None)
    if target not in classes:
        raise reader.error(
            target_node,
            f"class {name!r}: {target!r} is not a union class" + suggestion(target, classes),
            "Use one of `classes`, or add it there.",
        )
    return Entry(name, _relation(relation), target)


def _relation(text: str) -> Relation:
    """Narrows a checked string to the literal type."""
    if text == "narrower":
        return "narrower"
    return "broader" if text == "broader" else "same"
