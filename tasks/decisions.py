"""What people have decided about relations between the classes of two teachers.

Decisions outlive compositions: each is kept under the digests of both
detectors, so the same question is asked once, whatever the recipe.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from filelock import FileLock

from composition.discovery import suggestions as discovery
from composition.discovery.suggestions import Suggestion
from composition.errors import UserError
from composition.label_space import LabelSpace
from model_zoo.bundle import canonical_json
from tasks.discovery import Findings
from tasks.home import Home
from tasks.store import disk_errors, write_atomic

FILE = "label-space-decisions.json"
Key = str


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of a home folder.

    Attributes:
        accepted: Key of a question (see `question`) to whether the relation holds.
    """

    accepted: Mapping[Key, bool]

    def open(self, findings: Findings) -> list[Suggestion]:
        """The proposals about which nobody has decided, the surest first."""
        return [
            s
            for s in findings.suggestions
            if s.status == "proposed" and question(findings, s) not in self.accepted
        ]

    def applied(self, space: LabelSpace, findings: Findings) -> LabelSpace:
        """The label space with all relations that were accepted."""
        chosen = [s for s in findings.suggestions if self.accepted.get(question(findings, s))]
        return discovery.accept(space, chosen, "all")


def question(findings: Findings, suggestion: Suggestion) -> Key:
    """What a proposal is about: both detectors, both classes, the relation."""
    digests = {one.name: one.digest for pair in findings.pairs for one in (pair.first, pair.second)}
    sides = [
        [digests[suggestion.first_teacher], suggestion.first_class],
        [digests[suggestion.second_teacher], suggestion.second_class],
    ]
    return canonical_json([*sides, suggestion.proposal.relation]).decode()


def load(home: Home) -> Decisions:
    """The decisions so far.

    Raises:
        UserError: The file is damaged.
    """
    path = home.root / FILE
    if not path.exists():
        return Decisions({})
    try:
        entries: dict[str, Any] = json.loads(path.read_text())
        return Decisions({key: bool(entry["accepted"]) for key, entry in entries.items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged", "Restore it from a backup, or delete it to be asked again."
        ) from None


def remember(
    home: Home, findings: Findings, answers: Iterable[tuple[Suggestion, bool]], by: str
) -> Decisions:
    """Adds decisions; later ones replace earlier ones about the same question.

    Args:
        home: Where they are kept.
        findings: What the suggestions come from.
        answers: Suggestions, and whether each was accepted.
        by: Who decided, e.g. the flow run.
    """
    path = home.root / FILE
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with disk_errors(path), FileLock(f"{path}.lock"):
        entries = json.loads(path.read_text()) if path.exists() else {}
        for suggestion, accepted in answers:
            entries[question(findings, suggestion)] = {
                "accepted": accepted,
                "by": by,
                "at": now,
                **suggestion.to_dict(),
            }
        write_atomic(path, json.dumps(entries, indent=1).encode() + b"\n")
    return load(home)
