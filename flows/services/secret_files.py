"""Secrets: from the environment, from a file that it names, or made once and kept closed to others.

A secret travels in the environment of the process that needs it; it is never
an argument (everybody can list those), never logged, never part of the state.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from composition.errors import UserError
from tasks.home import Home
from tasks.store import disk_errors, write_atomic


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret and how a shell gets at it.

    Attributes:
        value: The secret itself.
        variable: Environment variable that it came from, or None.
        file: File that it came from, or None.
    """

    value: str = field(repr=False)
    variable: str | None = None
    file: Path | None = None

    def reference(self) -> dict[str, str]:
        """Where it is, without saying it."""
        return {"file": str(self.file)} if self.file else {"variable": str(self.variable)}


def from_environment(variable: str, environment: Mapping[str, str] = os.environ) -> Secret | None:
    """A secret that the user has given: ``$NAME``, or the file that ``$NAME_FILE`` names.

    Raises:
        UserError: The file cannot be read, or both are set.
    """
    value, named = environment.get(variable), environment.get(f"{variable}_FILE")
    if value and named:
        raise UserError(f"{variable} and {variable}_FILE are both set", "Unset one of them.")
    if value:
        return Secret(value, variable=variable)
    if not named:
        return None
    path = Path(named).expanduser().absolute()
    try:
        content = path.read_text().strip()
    except OSError as error:
        raise UserError(
            f"{variable}_FILE: {path} cannot be read: {error.strerror}",
            f"Put the secret there, or unset {variable}_FILE.",
        ) from None
    if not content:
        raise UserError(f"{variable}_FILE: {path} is empty", "Put the secret there.")
    return Secret(content, file=path)


def obtain(home: Home, variable: str, name: str, make: Callable[[], str]) -> Secret:
    """A secret: given by the user, kept from an earlier start, or made now.

    Args:
        home: Where made ones are kept, in ``secrets/``.
        variable: Environment variable by which a user gives it.
        name: File name of a made one.
        make: Makes a new one.

    Raises:
        UserError: Its file is open to others.
    """
    given = from_environment(variable)
    if given:
        return given
    path = home.root / "secrets" / name
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            previous = os.umask(0o077)
            try:
                write_atomic(path, f"{make()}\n".encode())
            finally:
                os.umask(previous)
    if path.stat().st_mode & 0o077:
        raise UserError(
            f"{path} can be read by others",
            f"Run `chmod 600 {path}`, or delete it to have a new secret made.",
        )
    return Secret(path.read_text().strip(), file=path)


def password() -> str:
    """A new password: 32 letters and digits that need no quoting anywhere."""
    return secrets.token_hex(16)


def fernet_key() -> str:
    """A new key of the kind that MLflow encrypts webhook secrets with."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def auth_string() -> str:
    """A new user and password in the form that Prefect takes."""
    return f"admin:{password()}"
