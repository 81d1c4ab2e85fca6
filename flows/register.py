"""Registering a teacher, as a flow: a form in the Prefect UI."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks import registry
from tasks.home import Home
from tasks.references import CHAMPION
from tasks.registration import register_teacher
from tasks.teachers import find


@flow(name="register-teacher", flow_run_name="register teacher {teacher}", persist_result=False)
def register(
    teacher: str,
    name: str | None = None,
    alias: str | None = CHAMPION,
    tags: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Registers a teacher, so that recipes and `recompose` find it.

    Args:
        teacher: Name of an added teacher, or path of a bundle.
        name: Its name in the registry; default: its own.
        alias: The alias that the version gets, taken from the version that has it; empty: none.
        tags: More tags of the version, e.g. ``{"pool": "traffic"}``: recipes can select by them.

    Returns:
        Model, version, digest, alias, and whether the version is new.

    Raises:
        UserError: No such teacher, or a name that cannot be used.
    """
    home = Home.default()
    found = find(home, teacher)
    done = register_teacher(home, found, name or found.name, alias=alias or None, tags=tags)
    version = done.version
    return {
        "model": registry.uri(version),
        "name": str(version.name).partition(".")[2],
        "version": int(version.version),
        "digest": found.digest,
        "alias": done.alias,
        "new": done.new,
    }
