"""Class names of different vocabularies that mean the same.

The table is data (``aliases.yaml``). Two names are the same when they are equal
up to case, spaces, underscores and hyphens, or stand in one group of the table.
Nothing here guesses: similar names are only ever offered as candidates.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml

from composition.errors import UserError


def normalise(name: str) -> str:
    """The form in which names are compared.

    Case, spaces, underscores and hyphens do not count, except between two
    digits, so that ``class_1_2`` and ``class_12`` stay apart.

    Example:
        >>> normalise("Potted_Plant"), normalise("pottedplant")
        ('pottedplant', 'pottedplant')
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"[\s_\-]+", " ", text).strip()
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


class _Homonym(NamedTuple):
    beside: str
    means: str


@dataclass(frozen=True, slots=True)
class _Table:
    canonical: Mapping[str, str]
    homonyms: Mapping[str, _Homonym]
    groups: tuple[tuple[str, ...], ...]


@cache
def _table() -> _Table:
    document = yaml.safe_load(files("composition").joinpath("aliases.yaml").read_text(encoding="utf-8"))
    groups = tuple(tuple(group) for group in document["groups"])
    return _Table(
        canonical={normalise(name): group[0] for group in groups for name in group},
        homonyms={
            normalise(row["name"]): _Homonym(normalise(row["beside"]), row["means"])
            for row in document["homonyms"]
        },
        groups=groups,
    )


def groups() -> tuple[tuple[str, ...], ...]:
    """The groups of spellings, the canonical name first in each."""
    return _table().groups


def meanings(vocabulary: Sequence[str]) -> list[str]:
    """What each class of a vocabulary is called here.

    Args:
        vocabulary: All class names of one teacher or data set; the others
            decide about homonyms (Open Images' "Mouse" is the animal).

    Returns:
        The canonical name for a class of the alias table, otherwise the name
        as it is. Compare them with `normalise`.

    Example:
        >>> meanings(["aeroplane", "Blood Cell"])
        ['airplane', 'Blood Cell']
    """
    table = _table()
    present = {normalise(name) for name in vocabulary}
    result = []
    for name in vocabulary:
        key = normalise(name)
        homonym = table.homonyms.get(key)
        if homonym is not None and homonym.beside in present:
            result.append(homonym.means)
        else:
            result.append(table.canonical.get(key, name))
    return result


def find(vocabulary: Sequence[str], names: Sequence[str]) -> list[tuple[int, ...]]:
    """Which of ``names`` each class of a vocabulary stands for.

    An equal name wins over one that is equal up to case and separators, which
    wins over an alias. More than one index means that the names are ambiguous.

    Args:
        vocabulary: (K,) class names of one teacher.
        names: (M,) class names to match them with.

    Returns:
        For each class of the vocabulary the indices into ``names``, ascending;
        an empty tuple where nothing matches.
    """
    exact: dict[str, list[int]] = {}
    spelled: dict[tuple[str, str], list[int]] = {}
    meant: dict[str, list[int]] = {}
    for index, (name, meaning) in enumerate(zip(names, meanings(names), strict=True)):
        exact.setdefault(name, []).append(index)
        spelled.setdefault((normalise(name), normalise(meaning)), []).append(index)
        meant.setdefault(normalise(meaning), []).append(index)
    return [
        tuple(
            exact.get(name)
            or spelled.get((normalise(name), normalise(meaning)))
            or meant.get(normalise(meaning))
            or ()
        )
        for name, meaning in zip(vocabulary, meanings(vocabulary), strict=True)
    ]


def shared_classes(vocabulary: Sequence[str], names: Sequence[str]) -> dict[int, int]:
    """The classes that a vocabulary shares with other names, through the table.

    Args:
        vocabulary: Class names of a teacher (or a label space).
        names: For example the category names of a COCO file.

    Returns:
        Class id in the vocabulary to index into ``names``. A class that equals
        a name takes it before any synonym of the same vocabulary.

    Raises:
        UserError: A class fits several names, or several classes one name.
    """
    found = find(vocabulary, names)
    claimed = {name: index for index, name in enumerate(vocabulary)}
    result: dict[int, int] = {}
    taken: dict[int, int] = {}
    for index, targets in enumerate(found):
        open_targets = [target for target in targets if claimed.get(names[target], index) == index]
        if len(open_targets) > 1:
            listed = ", ".join(repr(names[target]) for target in open_targets)
            raise UserError(
                f"class {vocabulary[index]!r} fits several names: {listed}",
                "Rename the class so that it equals one of them.",
            )
        for target in open_targets:
            if target in taken:
                raise UserError(
                    f"classes {vocabulary[taken[target]]!r} and {vocabulary[index]!r} "
                    f"both fit {names[target]!r}",
                    "Rename the one that is meant so that it equals the name.",
                )
            taken[target] = index
            result[index] = target
    return result


def candidates(name: str, names: Sequence[str], count: int = 3) -> list[str]:
    """Names that a person may have meant, the likeliest first; possibly none."""
    spellings: dict[str, str] = {}
    for other, meaning in zip(names, meanings(names), strict=True):
        spellings.setdefault(normalise(meaning), other)
        for group in groups():
            if group[0] == meaning:
                for alias in group:
                    spellings.setdefault(normalise(alias), other)
        spellings[normalise(other)] = other
    close = difflib.get_close_matches(normalise(name), list(spellings), n=count * 2, cutoff=0.6)
    words = {word for word in re.split(r"[\W_]+", name.casefold()) if len(word) > 2}
    sharing = [other for other in names if words & set(re.split(r"[\W_]+", other.casefold()))]
    ordered = dict.fromkeys([spellings[key] for key in close] + sharing)
    return list(ordered)[:count]


def suggestion(name: str, names: Sequence[str]) -> str:
    """`candidates` as the end of an error sentence, or an empty string."""
    close = candidates(name, names)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def require_known(name: str, names: Sequence[str], where: str) -> None:
    """Checks that a name is one of the names.

    Args:
        name: What was given.
        names: What there is.
        where: File or field, for the error.

    Raises:
        UserError: It is not; lists candidates.
    """
    if name not in names:
        raise UserError(
            f"{where}: there is no class {name!r}" + suggestion(name, names),
            f"Use one of: {', '.join(names)}.",
        )
