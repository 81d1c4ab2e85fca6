"""What discovered relations mean for a label space: which union classes to merge or to nest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from composition.discovery.evidence import Direction
from composition.discovery.relations import Proposal
from composition.label_space import Comments, Entry, LabelSpace, ancestors, experts, related
from composition.label_space.mapping import base_class, entries_of
from composition.label_space.space import find_circle
from composition.label_space.text import scalar

Status = Literal["proposed", "confirmed", "contradicts names"]
Accept = Literal["none", "confident", "all"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A relation between classes of two teachers, seen from the label space.

    Attributes:
        first_teacher: The teacher that comes earlier in the label space.
        first_class: Its class.
        second_teacher: The later one.
        second_class: Its class.
        proposal: The relation of the second class to the first, with evidence.
        status: ``confirmed``: the label space says so already; ``contradicts
            names``: by its name, one of the classes has another partner in the
            other teacher, so nothing is proposed; ``proposed`` otherwise.
        source: Union class of the class that would move (``same``: the second's;
            otherwise the narrower one).
        target: Union class that it would be merged into, or get as parent.
    """

    first_teacher: str
    first_class: str
    second_teacher: str
    second_class: str
    proposal: Proposal
    status: Status
    source: str
    target: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "teacher": self.second_teacher,
            "class": self.second_class,
            "relation": self.proposal.relation,
            "other_teacher": self.first_teacher,
            "other_class": self.first_class,
            "confident": self.proposal.confident,
            "status": self.status,
            "union": {"source": self.source, "target": self.target},
            "p_value": round(self.proposal.p_value, 6),
            "asked_of_teacher": _direction_dict(self.proposal.forward),
            "asked_of_other": _direction_dict(self.proposal.backward),
        }


def _direction_dict(direction: Direction) -> dict[str, Any]:
    return {
        "boxes": direction.boxes,
        "images": direction.images,
        "answered": direction.answered,
        "agreed": direction.agreed,
        "agreeing_images": direction.agreeing_images,
        "share": round(direction.share, 4),
        "lower": round(direction.lower, 4),
        "heard": round(direction.heard, 4),
    }


def suggest(space: LabelSpace, first: str, second: str, proposals: Sequence[Proposal]) -> list[Suggestion]:
    """Holds the proposals for two teachers against their label space.

    Args:
        space: The label space, usually made from names.
        first: The teacher that the proposals call first.
        second: The other.
        proposals: What `composition.discovery.discover` found.

    Returns:
        One suggestion for each proposal whose classes the label space does not drop.
    """
    one, two = entries_of(space, first), entries_of(space, second)
    seen_by = experts(space)
    close = related(space)
    index = {name: position for position, name in enumerate(space.classes)}
    result = []
    for proposal in proposals:
        a, b = one[proposal.first], two[proposal.second]
        u, v = base_class(space, a), base_class(space, b)
        if u is None or v is None:
            continue
        # the narrower class moves below the wider one; of equals, the later teacher's moves
        source, target = (u, v) if proposal.relation == "broader" else (v, u)
        named = first in seen_by[v] or second in seen_by[u]
        status: Status = "proposed"
        if u == v or (proposal.relation != "same" and bool(close[index[u], index[v]])):
            status = "confirmed"
        elif proposal.relation == "same" and named:
            status = "contradicts names"
        result.append(
            Suggestion(first, a.teacher_class, second, b.teacher_class, proposal, status, source, target)
        )
    return result


def accept(space: LabelSpace, suggestions: Sequence[Suggestion], which: Accept) -> LabelSpace:
    """Applies suggestions to a label space.

    Args:
        space: The label space that they were made for.
        suggestions: From any number of pairs of teachers; the likeliest win
            where they exclude each other.
        which: ``confident`` ones, ``all`` that are proposed, or ``none``.

    Returns:
        The label space in which equal classes are merged (the target's name
        stays) and narrower ones have the wider as their parent.
    """
    chosen = [s for s in suggestions if s.status == "proposed" and (which == "all" or s.proposal.confident)]
    if which == "none":
        chosen = []
    chosen.sort(key=lambda s: (not s.proposal.confident, s.proposal.p_value, s.source, s.target))
    merged: dict[str, str] = {}

    def name_of(name: str) -> str:
        while name in merged:
            name = merged[name]
        return name

    for suggestion in chosen:
        if suggestion.proposal.relation == "same":
            pair = sorted({name_of(suggestion.source), name_of(suggestion.target)}, key=space.classes.index)
            together = [_teachers_of(space, merged, name) for name in pair]
            # two classes of one teacher are never the same
            if len(pair) == 2 and not together[0] & together[1]:
                merged[pair[1]] = pair[0]
    parents: dict[str, str] = {}
    wanted = [(child, parent) for child, parent in space.parents.items()]
    wanted += [(s.source, s.target) for s in chosen if s.proposal.relation != "same"]
    for child, parent in ((name_of(c), name_of(p)) for c, p in wanted):
        trial = {child: parent, **parents}
        if not find_circle(trial):
            parents = trial
    return LabelSpace(
        tuple(name for name in space.classes if name not in merged),
        {
            teacher: tuple(
                Entry(e.teacher_class, e.relation, *{name_of(target) for target in e.targets})
                for e in entries
            )
            for teacher, entries in space.teachers.items()
        },
        parents,
    )


def _teachers_of(space: LabelSpace, merged: dict[str, str], name: str) -> set[str]:
    """Teachers with a class of their own in a union class, after merging."""
    group = {name}
    while True:
        more = group | {child for child, into in merged.items() if into in group}
        if more == group:
            break
        group = more
    return {t for t, entries in space.teachers.items() for e in entries if e.target in group}


def comments(space: LabelSpace, suggestions: Sequence[Suggestion]) -> Comments:
    """The suggestions as notes beside the label space, for a person to take or leave.

    A suggested line is a comment that becomes part of the file when its ``# ``
    is removed (and the line that it replaces, which stands below it).
    """
    entries: dict[tuple[str, str], list[str]] = {}
    nested: dict[str, list[Suggestion]] = {}
    top: list[str] = []
    for s in suggestions:
        if s.status == "contradicts names" and s.proposal.confident:
            one, two = _names(s)
            top.append(f"doubt: {two} behaves like {one}, which the names do not say: look at both")
        elif s.status == "proposed" and s.proposal.relation == "same":
            line = f"{scalar(s.second_class)}: {scalar(s.target)}    # proposed, {_degree(s)}:"
            notes = entries.setdefault((s.second_teacher, s.second_class), [])
            notes += [line, *(f"  # {text}" for text in _evidence(s))]
        elif s.status == "proposed" and s.target not in ancestors(space, s.source):
            nested.setdefault(s.target, []).append(s)
    parents = [] if space.parents or not nested else ["parents:"]
    for parts in nested.values():
        for s in parts:
            parents.append(f"  {scalar(s.source)}: {scalar(s.target)}    # proposed, {_degree(s)}:")
            parents += [f"    # {text}" for text in _evidence(s)]
        wide = parts[0]
        names = ", ".join(dict.fromkeys(scalar(s.source) for s in parts))
        broader = wide.proposal.relation == "broader"
        teacher = wide.second_teacher if broader else wide.first_teacher
        own = wide.second_class if broader else wide.first_class
        parents.append(f"  # or, if {scalar(wide.target)} shall be no class, below {teacher}:")
        parents.append(f"  #   {scalar(own)}: {{broader: [{names}]}}")
    return Comments(top, parents, entries)


def _names(s: Suggestion) -> tuple[str, str]:
    return f"{s.first_teacher} {s.first_class!r}", f"{s.second_teacher} {s.second_class!r}"


def _degree(suggestion: Suggestion) -> str:
    return "confident" if suggestion.proposal.confident else "unsure"


def _evidence(s: Suggestion) -> list[str]:
    one, two = _names(s)
    return [_say(one, two, s.proposal.forward), _say(two, one, s.proposal.backward)]


def _say(asked: str, answer: str, direction: Direction) -> str:
    return (
        f"{asked}: {direction.boxes} boxes, {direction.answered} answered, {direction.agreed} as "
        f"{answer} (lower bound {100 * direction.lower:.0f} %)"
    )


def unmatched(space: LabelSpace, suggestions: Sequence[Suggestion]) -> list[tuple[str, str]]:
    """Classes that only one of several teachers has and that nothing is proposed for."""
    busy = {
        (t, c)
        for s in suggestions
        if s.status != "contradicts names"
        for t, c in ((s.first_teacher, s.first_class), (s.second_teacher, s.second_class))
    }
    seen_by = experts(space)
    return [
        (teacher, entry.teacher_class)
        for teacher, entries in space.teachers.items()
        for entry in entries
        if entry.target is not None
        and len(seen_by[entry.target]) == 1
        and (teacher, entry.teacher_class) not in busy
    ]
