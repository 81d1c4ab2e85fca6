"""Building a label space from names: the alias table plus explicit overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from composition.aliases import candidates, find, meanings, normalise, suggestion
from composition.errors import UserError
from composition.label_space.mapping import coverage
from composition.label_space.space import RELATIONS, Entry, LabelSpace, Relation, check_classes

DROP = "drop"
REST = "*"

Vocabularies = Mapping[str, Sequence[str]]
Override = str | Mapping[str, str | Sequence[str]]
Overrides = Mapping[str, Mapping[str, Override]]


def build(
    vocabularies: Vocabularies,
    classes: Sequence[str] | None = None,
    overrides: Overrides | None = None,
    parents: Mapping[str, str] | None = None,
) -> LabelSpace:
    """Maps every teacher class to a union class, or says which it cannot.

    Names match when they are equal, equal up to case and separators, or in one
    group of the alias table. Two classes of one teacher may share a target by
    an override or as synonyms of the table; two that differ only in case or
    separators are refused.

    Args:
        vocabularies: Teacher name to its class names, in order.
        classes: The union classes. None: the union of all vocabularies in order
            of first appearance, under the alias table's canonical names;
            teachers with a ``*`` override add no classes of their own.
        overrides: Per teacher: its class name to a union class, to ``drop``, or
            to one relation with its target or list of targets, for example
            ``{"broader": ["car", "bus"]}``; the key ``*`` stands for every
            class that nothing else maps.
        parents: Union class to the union class that it is a kind of.

    Returns:
        The label space. Relations are ``same``; ``narrower`` for several classes
        of one teacher that an override sends to one class of another meaning;
        ``drop``.

    Raises:
        UserError: Unmapped classes (all of them, with candidates), unknown
            names in overrides, ambiguous names, a class without any teacher.
    """
    rules: Overrides = overrides or {}
    _check_overrides(vocabularies, rules)
    for teacher, vocabulary in vocabularies.items():
        check_classes(vocabulary, f"teacher {teacher!r}")
    union = tuple(classes) if classes is not None else _union(vocabularies, rules)
    check_classes(union, "label space")

    teachers: dict[str, tuple[Entry, ...]] = {}
    unmapped: list[tuple[str, str]] = []
    for teacher, vocabulary in vocabularies.items():
        found = _entries(teacher, vocabulary, union, rules.get(teacher, {}))
        unmapped += [(teacher, name) for name in vocabulary if name not in found]
        teachers[teacher] = tuple(found.values())
    if unmapped:
        raise _unmapped_error(unmapped, union)
    space = LabelSpace(union, teachers, dict(parents or {}))
    _check_reached(space, vocabularies)
    return space


def _union(vocabularies: Vocabularies, rules: Overrides) -> tuple[str, ...]:
    """Canonical names in order of first appearance."""
    union: dict[str, str] = {}
    for teacher, vocabulary in vocabularies.items():
        rule = rules.get(teacher, {})
        if REST in rule:
            continue
        for name, meaning in zip(vocabulary, meanings(vocabulary), strict=True):
            if name not in rule:
                union.setdefault(normalise(meaning), meaning)
    return tuple(union.values())


def _check_overrides(vocabularies: Vocabularies, rules: Overrides) -> None:
    for teacher, rule in rules.items():
        if teacher not in vocabularies:
            raise UserError(
                f"overrides name teacher {teacher!r}, which is not in this label space"
                + suggestion(teacher, list(vocabularies)),
                f"The teachers are: {', '.join(vocabularies)}.",
            )
        for name in rule:
            if name != REST and name not in vocabularies[teacher]:
                raise UserError(
                    f"overrides of teacher {teacher!r} name class {name!r}, which it does not have"
                    + suggestion(name, vocabularies[teacher]),
                    "Use the class name exactly as the teacher spells it.",
                )


def _resolve(teacher: str, name: str, target: str, union: Sequence[str]) -> str:
    """An override's target as a union class."""
    found = find([target], union)[0]
    if len(found) != 1:
        raise UserError(
            f"overrides of teacher {teacher!r} send {name!r} to {target!r}, which is not a union class"
            + suggestion(target, union),
            "Use a union class or drop; list it under classes if it shall be a new one.",
        )
    return union[found[0]]


def _override(teacher: str, name: str, rule: Override, union: Sequence[str]) -> Entry | str:
    """An override as an entry, or as a target whose relation follows from the names."""
    if isinstance(rule, str):
        return Entry(name, "drop") if rule == DROP else _resolve(teacher, name, rule, union)
    if len(rule) != 1 or next(iter(rule)) not in RELATIONS:
        raise UserError(
            f"overrides of teacher {teacher!r}: {name!r} must have one relation, it has "
            f"{', '.join(map(repr, rule)) or 'none'}" + suggestion(next(iter(rule), ""), RELATIONS),
            f"Write for example `{name}: {{broader: [car, bus]}}`.",
        )
    ((relation, value),) = rule.items()
    targets = [value] if isinstance(value, str) else list(value)
    resolved = [_resolve(teacher, name, target, union) for target in targets]
    return Entry(name, as_relation(relation), *resolved)


def as_relation(text: str) -> Relation:
    """Narrows a string to the literal type.

    Raises:
        UserError: It is no relation.
    """
    for relation in get_args(Relation):
        if text == relation:
            known: Relation = relation
            return known
    raise UserError(f"{text!r} is not a relation" + suggestion(text, RELATIONS))


def _matched(
    teacher: str, vocabulary: Sequence[str], union: Sequence[str], rule: Mapping[str, Override]
) -> dict[str, Entry | str]:
    """Teacher class to its entry or target; unmapped classes are absent."""
    result: dict[str, Entry | str] = {}
    spelled: dict[tuple[str, str], str] = {}
    for name, found in zip(vocabulary, find(vocabulary, union), strict=True):
        if name in rule:
            result[name] = _override(teacher, name, rule[name], union)
        elif len(found) > 1:
            listed = ", ".join(repr(union[index]) for index in found)
            raise UserError(
                f"teacher {teacher!r}: class {name!r} fits several union classes: {listed}",
                f"Say which in the overrides of {teacher!r}.",
            )
        elif found:
            target = union[found[0]]
            twin = spelled.setdefault((normalise(name), target), name)
            if twin != name:
                raise UserError(
                    f"teacher {teacher!r}: classes {twin!r} and {name!r} differ only in spelling, "
                    f"and both fit {target!r}",
                    f"Map each of them in the overrides of {teacher!r}.",
                )
            result[name] = target
        elif REST in rule:
            result[name] = _override(teacher, name, rule[REST], union)
    return result


def _entries(
    teacher: str, vocabulary: Sequence[str], union: Sequence[str], rule: Mapping[str, Override]
) -> dict[str, Entry]:
    """Entries in vocabulary order; unmapped classes are left out."""
    matched = _matched(teacher, vocabulary, union, rule)
    chosen = [target for target in matched.values() if isinstance(target, str)]
    meaning = dict(zip(vocabulary, meanings(vocabulary), strict=True))
    entries: dict[str, Entry] = {}
    for name, target in matched.items():
        if isinstance(target, Entry):
            entries[name] = target
            continue
        equal = name == target or normalise(meaning[name]) == normalise(meanings([target])[0])
        # one class renamed is the same; several gathered under another name are kinds of it
        entries[name] = Entry(name, "same" if equal or chosen.count(target) == 1 else "narrower", target)
    return entries


def _unmapped_error(unmapped: Sequence[tuple[str, str]], union: Sequence[str]) -> UserError:
    lines = [
        f"  {teacher}: {name!r}" + (f" ({' or '.join(map(repr, close))}?)" if close else "")
        for teacher, name in unmapped
        for close in [candidates(name, union)]
    ]
    teacher, name = unmapped[0]
    return UserError(
        f"{len(unmapped)} teacher class{'es fit' if len(unmapped) > 1 else ' fits'} no class of the "
        "label space:\n" + "\n".join(lines),
        f"Map each in overrides, for example `{teacher}: {{{name}: drop}}`, "
        f'or all others at once with `{teacher}: {{"*": drop}}`.',
    )


def _check_reached(space: LabelSpace, vocabularies: Vocabularies) -> None:
    names = [name for vocabulary in vocabularies.values() for name in vocabulary]
    for name, seen in zip(space.classes, coverage(space), strict=True):
        if not seen.any():
            raise UserError(
                f"no teacher can see class {name!r}" + suggestion(name, names),
                "Remove it from classes, or map a teacher class to it in overrides.",
            )
