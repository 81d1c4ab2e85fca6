"""The label space as JSON, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from composition.errors import UserError
from composition.label_space.space import Entry, LabelSpace

VERSION = 2


def to_json(space: LabelSpace) -> dict[str, Any]:
    """The label space as JSON values; the inverse is `from_json`."""
    return {
        "version": VERSION,
        "classes": list(space.classes),
        "parents": dict(sorted(space.parents.items())),
        "teachers": [
            {
                "name": teacher,
                "classes": [
                    {
                        "class": entry.teacher_class,
                        "relation": entry.relation,
                        "targets": list(entry.targets),
                    }
                    for entry in entries
                ],
            }
            for teacher, entries in space.teachers.items()
        ],
    }


def from_json(document: Mapping[str, Any], source: str = "label_space.json") -> LabelSpace:
    """Reads what `to_json` wrote, in this version or in version 1.

    Version 1 had one ``target`` (or null) an entry and no ``parents``; what it
    says is read as what it meant.

    Raises:
        UserError: Another version, or not a label space.
    """
    version = document.get("version")
    if version not in (1, VERSION):
        raise UserError(
            f"{source}: version {version!r} is not known", f"This detcompose reads 1 and {VERSION}."
        )
    try:
        return LabelSpace(
            classes=tuple(document["classes"]),
            teachers={
                teacher["name"]: tuple(_entry(row, version) for row in teacher["classes"])
                for teacher in document["teachers"]
            },
            parents={} if version == 1 else dict(document["parents"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source} is not a label space: {error!r}", "Write it again from its YAML or recipe."
        ) from None


def _entry(row: Mapping[str, Any], version: int) -> Entry:
    if version == 1:
        targets = [] if row["target"] is None else [row["target"]]
    else:
        targets = row["targets"]
        if not isinstance(targets, list):
            raise TypeError("targets is not a list")
    return Entry(row["class"], row["relation"], *targets)


def digest(space: LabelSpace) -> str:
    """sha256 of the canonical JSON, hex: equal digests, equal mapping and class ids."""
    text = json.dumps(to_json(space), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
