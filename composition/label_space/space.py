"""The label space as a value: union classes, their hierarchy, the teachers' relations to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from composition.aliases import suggestion
from composition.errors import UserError

Relation = Literal["same", "narrower", "broader", "drop"]
RELATIONS: tuple[str, ...] = get_args(Relation)
WAY_OUT = f"Use one of {', '.join(RELATIONS)}; all but drop with a union class, broader with any number."


@dataclass(frozen=True, slots=True, init=False)
class Entry:
    """What becomes of one teacher class.

    Args:
        teacher_class: Its name in the teacher's vocabulary.
        relation: ``same``: the target under another name; ``narrower``: a kind
            of the target, so its boxes are the target's; ``broader``: each
            target is a kind of it (``vehicle`` of ``car`` and ``bus``), so its
            boxes may or may not be the target's; ``drop``: not wanted.
        targets: Union classes: one for ``same`` and ``narrower``, one or more
            for ``broader``, none for ``drop``.

    Attributes:
        teacher_class: As given.
        relation: As given.
        targets: As given, sorted by name, so that equal relations are equal.

    Raises:
        UserError: Another relation, or a number of targets that it cannot have.

    Example:
        >>> Entry("vehicle", "broader", "car", "bus").targets
        ('bus', 'car')
    """

    teacher_class: str
    relation: Relation
    targets: tuple[str, ...]

    def __init__(self, teacher_class: str, relation: Relation, *targets: str) -> None:
        set_field = object.__setattr__
        set_field(self, "teacher_class", teacher_class)
        set_field(self, "relation", relation)
        set_field(self, "targets", tuple(sorted(targets)))
        where = f"class {teacher_class!r}"
        if relation not in RELATIONS:
            raise UserError(f"{where}: {relation!r} is not a relation", WAY_OUT)
        if relation == "drop" and targets:
            raise UserError(f"{where}: relation 'drop' takes no target", WAY_OUT)
        if relation != "drop" and not targets:
            raise UserError(f"{where}: relation {relation!r} needs a target", WAY_OUT)
        if relation in ("same", "narrower") and len(targets) > 1:
            raise UserError(
                f"{where}: relation {relation!r} takes one target, not {len(targets)}",
                "Name the closest class; its boxes count for the parents of that class as well.",
            )
        if len(set(targets)) < len(targets):
            raise UserError(f"{where}: a target appears twice", "Keep one of them.")

    @property
    def target(self) -> str | None:
        """The union class whose boxes its boxes are; None for ``broader`` and ``drop``."""
        return self.targets[0] if self.relation in ("same", "narrower") else None


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """Union classes and every teacher's way into them.

    Attributes:
        classes: Names of the union classes; their order is the class id.
        teachers: Teacher name to its entries, in the order of its vocabulary:
            entry i belongs to the teacher's class id i. The order of the
            teachers is the order of their bits in provenance masks.
        parents: Union class to the union class that it is a kind of; classes
            without an entry are roots. Every box of a class is a box of its
            ancestors too.

    Raises:
        UserError: Classes missing, blank or duplicate; an entry or a parent
            outside ``classes``; a teacher class that appears twice; a class
            that is its own ancestor.
    """

    classes: tuple[str, ...]
    teachers: dict[str, tuple[Entry, ...]]
    parents: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_classes(self.classes, "label space")
        known = set(self.classes)
        for teacher, entries in self.teachers.items():
            seen: set[str] = set()
            for entry in entries:
                if entry.teacher_class in seen:
                    raise UserError(f"label space: teacher {teacher!r} has {entry.teacher_class!r} twice")
                seen.add(entry.teacher_class)
                for target in entry.targets:
                    if target not in known:
                        raise UserError(
                            f"label space: teacher {teacher!r} sends {entry.teacher_class!r} to "
                            f"{target!r}, which is not a union class" + suggestion(target, self.classes)
                        )
        for pair in self.parents.items():
            for name in pair:
                if name not in known:
                    raise UserError(
                        f"label space: parents name {name!r}, which is not a union class"
                        + suggestion(name, self.classes)
                    )
        circle = find_circle(self.parents)
        if circle:
            raise UserError(
                f"label space: {' -> '.join(circle)}: a class cannot be a kind of itself",
                "Remove one of these parents.",
            )


def check_classes(classes: Sequence[str], source: str) -> None:
    """Checks the names of union classes.

    Raises:
        UserError: There are none, or one is blank or appears twice.
    """
    if not classes:
        raise UserError(f"{source}: there are no classes", "A label space needs at least one class.")
    seen = set()
    for name in classes:
        if not name.strip():
            raise UserError(f"{source}: a class name is blank", "Name the class or remove it.")
        if name in seen:
            raise UserError(f"{source}: class {name!r} appears twice", "Remove one of them.")
        seen.add(name)


def find_circle(parents: Mapping[str, str]) -> list[str]:
    """A chain of parents that comes back to its start, or an empty list."""
    for start in parents:
        chain = [start]
        while chain[-1] in parents and len(chain) <= len(parents):
            chain.append(parents[chain[-1]])
            if chain[-1] == start:
                return chain
    return []


def ancestors(space: LabelSpace, name: str) -> tuple[str, ...]:
    """The classes that a union class is a kind of, the nearest first, without itself."""
    chain: list[str] = []
    while name in space.parents:
        name = space.parents[name]
        chain.append(name)
    return tuple(chain)


def descendants(space: LabelSpace, name: str) -> tuple[str, ...]:
    """The union classes that are kinds of a class, in class order, without itself."""
    return tuple(other for other in space.classes if name in ancestors(space, other))
