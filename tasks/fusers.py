"""Fusers as JSON: the identity of one in keys, and how a calibrated one is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from composition import fusion
from composition.fusion import Expert, Fuser
from composition.fusion.expert import Expertise


def to_json(fuser: Fuser) -> dict[str, Any]:
    """Everything that decides what a fuser does, as JSON values."""
    return {"name": fuser.name, "settings": asdict(cast(Any, fuser))}


def from_json(document: Mapping[str, Any]) -> Fuser:
    """The inverse of `to_json`.

    Raises:
        UserError: An unknown fuser or setting.
    """
    settings = dict(document["settings"])
    if document["name"] == Expert().name:
        if settings["expertise"] is not None:
            settings["expertise"] = tuple(
                Expertise(**{**one, "scores": tuple(one["scores"]), "quality": tuple(one["quality"])})
                for one in settings["expertise"]
            )
        if settings["coverage"] is not None:
            settings["coverage"] = tuple(tuple(row) for row in settings["coverage"])
    return fusion.fuser(document["name"], settings)
