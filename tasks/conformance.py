"""The conformance kit on a teacher by name."""

from __future__ import annotations

from pathlib import Path

from composition.errors import UserError
from model_zoo.adapters.base import Image
from model_zoo.adapters.registry import open_detector
from model_zoo.conformance import Check, check_detector
from model_zoo.images import SUFFIXES, BadImageError, read_rgb
from tasks import teachers
from tasks.home import Home

PICTURES = 10


def check_teacher(home: Home, reference: str, folder: Path | None = None) -> tuple[str, list[Check]]:
    """Holds a teacher, or the student of a composition, to what every detector promises.

    Args:
        home: Where named teachers are.
        reference: Name or bundle path.
        folder: Pictures of what it knows; the first `PICTURES` are used.

    Returns:
        Its name, and one check a promise.

    Raises:
        UserError: No such detector, or no pictures in the folder.
    """
    found = teachers.find_student(home, reference)
    checks = check_detector(
        lambda settings: open_detector(found.folder, settings),
        found.manifest.vocabulary,
        _pictures(folder) if folder else (),
    )
    return found.name, checks


def _pictures(folder: Path) -> list[Image]:
    pictures: list[Image] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and len(pictures) < PICTURES:
            try:
                pictures.append(read_rgb(path))
            except BadImageError:
                continue
    if not pictures:
        raise UserError(f"{folder} holds no pictures", f"Image files end in {', '.join(SUFFIXES)}.")
    return pictures
