"""Which of the registry's events concern us: those that may change a composition's teachers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tasks.references import TEACHERS
from tasks.webhooks import EVENTS


@dataclass(frozen=True, slots=True)
class Event:
    """A teacher's version that is new, or an alias that moved.

    Attributes:
        entity: ``model_version`` or ``model_version_alias``.
        model: Registered model, ``teachers.x``.
        version: Its version.
        alias: The alias, if that is what moved.
    """

    entity: str
    model: str
    version: str
    alias: str | None


def parse(body: bytes) -> Event | None:
    """Reads a delivery.

    Returns:
        The event; None if it does not concern a teacher.

    Raises:
        ValueError: Not an event of MLflow's.
    """
    try:
        document = json.loads(body)
        entity, action, data = document["entity"], document["action"], document["data"]
        name, version = data["name"], data.get("version", "")
        alias = data.get("alias")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an event of MLflow's: {type(error).__name__}") from None
    if not all(isinstance(value, str) for value in (entity, action, name)):
        raise ValueError("not an event of MLflow's: a field is no text")
    if f"{entity}.{action}" not in EVENTS or not name.startswith(f"{TEACHERS}."):
        return None
    return Event(entity, name, str(version), str(alias) if alias is not None else None)
