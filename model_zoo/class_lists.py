"""Reading the class names of a detector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composition.errors import UserError
from model_zoo.bundle import check_vocabulary

_FORMS = "Give one name a line, a JSON list of names, or a COCO JSON with categories."


def read_classes(classes: Path | Sequence[str]) -> tuple[str, ...]:
    """Class names in the order of the class ids.

    Args:
        classes: The names, or a file: one name a line (``.names``, ``.txt``),
            a JSON list of names, or a COCO JSON file, whose categories count
            in the order of their ids.

    Raises:
        UserError: A missing or unreadable file; a blank or repeated name.
    """
    names = read_names(classes)
    check_vocabulary(names, str(classes) if isinstance(classes, Path) else "classes")
    return tuple(names)


def read_names(classes: Path | Sequence[str]) -> list[str]:
    """The names as they stand, with repeated fillers like ``N/A``; see `read_classes`.

    Raises:
        UserError: A missing or unreadable file.
    """
    if isinstance(classes, Path):
        return _names_in(classes)
    if isinstance(classes, str):  # a Sequence[str] too, but of letters
        raise UserError("classes: one text instead of a list of names", _FORMS)
    return list(classes)


def _names_in(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Check the path of the class list.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable text file: {error}", _FORMS) from None
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.rstrip().splitlines()]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", _FORMS) from None
    names = _from_json(document)
    if names is None:
        raise UserError(f"{path} holds neither a list of names nor COCO categories", _FORMS)
    return names


def _from_json(document: Any) -> list[str] | None:
    if isinstance(document, dict):
        categories: Any = document.get("categories")
        try:
            document = [entry["name"] for entry in sorted(categories, key=lambda entry: int(entry["id"]))]
        except (TypeError, KeyError, ValueError):
            return None
    if not isinstance(document, list) or not all(isinstance(name, str) for name in document):
        return None
    return [name.strip() for name in document]
