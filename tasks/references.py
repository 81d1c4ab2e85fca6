"""How a detector in the registry is addressed.

``teachers/x@champion`` and ``students/x@3`` name an alias or a version;
``models:/teachers.x@champion`` and ``models:/teachers.x/3`` are MLflow's own
spelling of the same. ``teachers/*@champion?pool=traffic`` stands for every
teacher whose name matches and whose version carries the tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from composition.errors import UserError

TEACHERS = "teachers"
STUDENTS = "students"
CHAMPION = "champion"
CHALLENGER = "challenger"

_OURS = re.compile(
    r"(?P<role>teachers|students)/(?P<name>[a-z0-9*][a-z0-9._*-]{0,63})"
    r"(?:@(?P<which>[A-Za-z0-9_-]+))?(?:\?(?P<tags>.+))?"
)
_MLFLOW = re.compile(
    r"models:/(?P<role>teachers|students)\.(?P<name>[a-z0-9][a-z0-9._-]{0,63})"
    r"(?:@(?P<which>[A-Za-z0-9_-]+)|/(?P<version>\d+))"
)
_WAY_OUT = (
    "Write teachers/NAME@champion, students/NAME@3, models:/teachers.NAME/3 "
    "or, for several, teachers/*@champion?tag=value."
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A place in the registry.

    Attributes:
        role: ``teachers`` or ``students``.
        name: Name without the role; may hold ``*``.
        which: An alias, or a version number.
        tags: What the version must be tagged with.
    """

    role: str
    name: str
    which: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return f"{self.role}.{self.name}"

    @property
    def is_version(self) -> bool:
        """Whether `which` is a version number; otherwise it is an alias."""
        return self.which.isdecimal()

    @property
    def is_pattern(self) -> bool:
        """Whether it may stand for several detectors, or for none."""
        return "*" in self.name or bool(self.tags)

    def matches(self, model: str) -> bool:
        """Whether a registered model's name is one of those that are meant."""
        return fnmatchcase(model, self.model)

    def __str__(self) -> str:
        tags = "&".join(f"{key}={value}" for key, value in self.tags.items())
        return f"{self.role}/{self.name}@{self.which}" + (f"?{tags}" if tags else "")


def is_reference(text: str) -> bool:
    """Whether a text addresses the registry; ``teachers/x`` alone is a path."""
    return text.startswith("models:/") or (text.startswith((f"{TEACHERS}/", f"{STUDENTS}/")) and "@" in text)


def parse(text: str, default: str | None = None) -> Reference:
    """Reads a reference.

    Args:
        text: As in the module's description.
        default: Alias to take where the text has none.

    Raises:
        UserError: It is none.
    """
    found = _OURS.fullmatch(text) or _MLFLOW.fullmatch(text)
    if found is None:
        raise UserError(f"{text!r} addresses nothing in the registry", _WAY_OUT)
    parts = found.groupdict()
    which = parts["which"] or parts.get("version") or default
    if which is None:
        raise UserError(f"{text!r} names neither an alias nor a version", _WAY_OUT)
    return Reference(parts["role"], parts["name"], which, _tags(parts.get("tags"), text))


def _tags(text: str | None, source: str) -> dict[str, str]:
    if text is None:
        return {}
    try:
        return tags_of(text.split("&"))
    except UserError:
        raise UserError(f"{source!r}: what follows '?' is not tag=value", _WAY_OUT) from None


def tags_of(texts: Iterable[str]) -> dict[str, str]:
    """Tags from ``key=value`` each.

    Raises:
        UserError: One is not of that form.
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"{text!r} is no tag", "Write key=value, e.g. pool=traffic.")
        pairs[key] = value
    return pairs
