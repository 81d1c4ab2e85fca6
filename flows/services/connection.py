"""How other commands find the services that run in this home."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from composition.errors import UserError
from flows.services.place import Place

SERVERS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")


def join_running(place: Place) -> None:
    """Lets this process use the servers that run in its home, unless the user has named others.

    Two Prefect servers on one SQLite file get in each other's way, so a
    command that would start its own beside them uses theirs.
    """
    if any(os.environ.get(name) for name in SERVERS) or place.supervisor() is None:
        return
    for name, where in _exports(place).items():
        value = _resolve(where)
        if value:
            os.environ.setdefault(name, value)


def shell_lines(place: Place) -> list[str]:
    """``export`` lines for a shell; secrets are named, not said.

    Raises:
        UserError: Nothing runs.
    """
    exports = _exports(place) if place.supervisor() else {}
    if not exports:
        raise UserError(f"no services run in {place.home.root}", "Start them with `detcompose up`.")
    return [f"export {name}={_shell(where)}" for name, where in exports.items()]


def _exports(place: Place) -> Mapping[str, Mapping[str, str]]:
    exports: Mapping[str, Mapping[str, str]] = place.read("state").get("exports", {})
    return exports


def _shell(where: Mapping[str, str]) -> str:
    if "value" in where:
        return shlex.quote(where["value"])
    return f'"$(cat {shlex.quote(where["file"])})"' if "file" in where else f'"${where["variable"]}"'


def _resolve(where: Mapping[str, str]) -> str | None:
    if "value" in where:
        return where["value"]
    if "variable" in where:
        return os.environ.get(where["variable"])
    try:
        return Path(where["file"]).read_text().strip()
    except OSError:
        return None  # another user's; the server will say 401
