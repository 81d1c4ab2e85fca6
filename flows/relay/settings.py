"""What the relay is told by its environment; the secret never comes by the command line, which others see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from composition.errors import UserError

SECRET = "DETCOMPOSE_WEBHOOK_SECRET"  # noqa: S105 (the variable's name)
SECRET_FILE = "DETCOMPOSE_WEBHOOK_SECRET_FILE"  # noqa: S105
DEPLOYMENTS = "DETCOMPOSE_RECOMPOSE_DEPLOYMENTS"
REGISTER = "DETCOMPOSE_RELAY_REGISTER"
MIN_SECRET = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """How the relay behaves.

    Attributes:
        secret: Shared with the registry's webhook.
        deployments: Names ``recompose/...`` of the deployments to run; empty:
            every deployment of the flow `recompose` that is not paused.
        register: Address of the relay to register as webhook at the MLflow
            server when it starts; empty: somebody does it by hand.
        quiet: Seconds without another event after which a burst is over.
        longest: Seconds after which a burst is over in any case.
    """

    secret: bytes = field(repr=False)
    deployments: tuple[str, ...] = ()
    register: str = ""
    quiet: float = 1.0
    longest: float = 3.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings.

        Raises:
            UserError: There is no secret, or it is too short.
        """
        names = [name.strip() for name in environment.get(DEPLOYMENTS, "").split(",")]
        chosen = tuple(name for name in names if name)
        return cls(read_secret(environment).encode(), chosen, environment.get(REGISTER, ""))


def read_secret(environment: Mapping[str, str] = os.environ) -> str:
    """The webhook's secret, from ``DETCOMPOSE_WEBHOOK_SECRET`` or the file of ``..._FILE``.

    Raises:
        UserError: There is none, or it is too short.
    """
    secret = environment.get(SECRET, "")
    file = environment.get(SECRET_FILE)
    if not secret and file:
        try:
            secret = Path(file).read_text().strip()
        except OSError as error:
            raise UserError(
                f"{SECRET_FILE}: {file} cannot be read: {error.strerror}", "Give a file with the secret."
            ) from None
    if not secret:
        raise UserError(
            "the webhook has no secret", f"Set {SECRET}, or {SECRET_FILE} to a file that holds it."
        )
    if len(secret) < MIN_SECRET:
        raise UserError(
            f"the webhook's secret has {len(secret)} letters, at least {MIN_SECRET} are needed",
            "Make one with: openssl rand -hex 32.",
        )
    return secret
