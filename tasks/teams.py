"""Which teachers look at the pixels of one decoding together, and the networks that are open for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from model_zoo.adapters.base import Detector, InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.memory import SparingDetector
from tasks.teachers import Teacher

WEIGHT_BYTES = 4 << 30
"""Weights that are loaded at the same time; teachers with more look at the images in turns."""

Opener = Callable[[Teacher], Detector]


def teams(teachers: Sequence[Teacher], most: int = WEIGHT_BYTES) -> Iterator[list[Teacher]]:
    """Cuts a list of teachers into those whose weights fit into memory together.

    Args:
        teachers: All of them.
        most: Bytes of weights per team, which a single teacher may exceed.
    """
    team: list[Teacher] = []
    held = 0
    for teacher in teachers:
        needed = sum(entry.bytes for entry in teacher.manifest.files.values())
        if team and held + needed > most:
            yield team
            team, held = [], 0
        team.append(teacher)
        held += needed
    if team:
        yield team


def called(team: Sequence[Teacher]) -> str:
    """What a team is called where it is shown."""
    names = [teacher.name for teacher in team]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def opener(settings: InferenceSettings) -> Opener:
    """Opens detectors that halve their batch when memory runs out."""
    return lambda teacher: SparingDetector(open_detector(teacher.folder, settings), teacher.name)


_KEPT = threading.local()


def kept_opener(settings: InferenceSettings, team: Sequence[Teacher]) -> Opener:
    """`opener`, for shard after shard: what this thread has opened for the team stays open.

    Networks of other teachers, and of other settings, are closed.
    """
    digests = {teacher.digest for teacher in team}
    before: dict[str, Detector] = getattr(_KEPT, "detectors", {}) if _kept_for() == settings else {}
    _KEPT.settings = settings
    _KEPT.detectors = kept = {digest: one for digest, one in before.items() if digest in digests}

    def get(teacher: Teacher) -> Detector:
        if teacher.digest not in kept:
            kept[teacher.digest] = opener(settings)(teacher)
        return kept[teacher.digest]

    return get


def forget_detectors() -> None:
    """Closes the detectors that `kept_opener` has left open in this thread."""
    _KEPT.settings, _KEPT.detectors = None, {}


def _kept_for() -> InferenceSettings | None:
    found: InferenceSettings | None = getattr(_KEPT, "settings", None)
    return found
