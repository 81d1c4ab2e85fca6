"""What `detcompose up` is asked for: addresses, which services, databases; kept for the next start."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from composition.errors import UserError
from flows.services.place import Place
from flows.services.secret_files import Secret, from_environment

PREFECT, MLFLOW, WORKER, DEPLOYMENTS, RELAY = "prefect", "mlflow", "worker", "deployments", "relay"
SELECTABLE = (PREFECT, MLFLOW, WORKER, RELAY)
LOOPBACK = "127.0.0.1"

POOL = "detcompose"
"""Work pool of our deployments."""
HEARTBEAT_SECONDS = 60
"""How often a run says that it is alive."""

PREFECT_DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
MLFLOW_DATABASE = "MLFLOW_BACKEND_STORE_URI"
MLFLOW_ARTIFACTS = "MLFLOW_ARTIFACTS_DESTINATION"

# module that a URL's scheme needs
_DRIVERS = {
    "postgresql+psycopg": "psycopg",
    "postgresql+psycopg2": "psycopg2",
    "s3": "boto3",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the services of this machine run.

    Attributes:
        host: Address that the two servers listen on; the relay always keeps to the loopback.
        prefect_port: Port of Prefect's UI and API.
        mlflow_port: Port of MLflow's UI and API.
        relay_port: Port of the webhook relay.
        auth: Whether both servers ask for a password.
        only: Services to start, of `SELECTABLE`.
    """

    host: str = LOOPBACK
    prefect_port: int = 4200
    mlflow_port: int = 5000
    relay_port: int = 4290
    auth: bool = False
    only: tuple[str, ...] = SELECTABLE

    @property
    def client_host(self) -> str:
        """Address by which a program on this machine reaches the servers."""
        if self.host in ("0.0.0.0", "::", ""):  # noqa: S104 (a comparison, nothing listens)
            return LOOPBACK
        return f"[{self.host}]" if ":" in self.host else self.host

    def ports(self) -> dict[str, int]:
        """Port of every chosen service that listens."""
        ports = {PREFECT: self.prefect_port, MLFLOW: self.mlflow_port, RELAY: self.relay_port}
        return {name: port for name, port in ports.items() if name in self.only}


@dataclass(frozen=True, slots=True)
class Databases:
    """Where the servers keep their state; None is the home folder.

    Attributes:
        prefect: SQLAlchemy URL of Prefect's database.
        mlflow: SQLAlchemy URL of MLflow's database.
        artifacts: Folder or object store of MLflow's artifacts.
    """

    prefect: Secret | None
    mlflow: Secret | None
    artifacts: Secret | None

    def kinds(self) -> dict[str, str]:
        """The schemes, which may be written down; the URLs hold passwords."""
        own = {"prefect": "sqlite", "mlflow": "sqlite", "artifacts": "file"}
        return {
            name: _kind(_scheme(found.value)) if (found := getattr(self, name)) else default
            for name, default in own.items()
        }


def read_databases(environment: Mapping[str, str] = os.environ) -> Databases:
    """The databases that the environment names (``NAME`` or ``NAME_FILE``).

    Raises:
        UserError: A driver is not installed; a file cannot be read.
    """
    databases = Databases(
        _with_driver(from_environment(PREFECT_DATABASE, environment), "asyncpg"),
        # SQLAlchemy alone would take psycopg2, which is not what we install
        _with_driver(from_environment(MLFLOW_DATABASE, environment), "psycopg"),
        from_environment(MLFLOW_ARTIFACTS, environment),
    )
    if databases.prefect and _scheme(databases.prefect.value) not in (
        "sqlite+aiosqlite",
        "postgresql+asyncpg",
    ):
        raise UserError(
            f"{PREFECT_DATABASE} begins with {_scheme(databases.prefect.value)}://, which Prefect cannot use",
            "Write postgresql://user:password@host/database.",
        )
    if databases.mlflow and _scheme(databases.mlflow.value).partition("+")[0] not in ("sqlite", "postgresql"):
        # MLflow would say so itself, password and all, into its log
        raise UserError(
            f"{MLFLOW_DATABASE} begins with {_scheme(databases.mlflow.value)}://, which is not supported",
            "Write postgresql://user:password@host/database.",
        )
    for variable, found in ((MLFLOW_DATABASE, databases.mlflow), (MLFLOW_ARTIFACTS, databases.artifacts)):
        _require(variable, _DRIVERS.get(_scheme(found.value)) if found else None)
    return databases


def _scheme(url: str) -> str:
    return url.partition("://")[0] if "://" in url else "file"


def _kind(scheme: str) -> str:
    """A scheme without PostgreSQL's driver, which may be another one tomorrow."""
    return "postgresql" if scheme.startswith("postgresql+") else scheme


def _with_driver(url: Secret | None, driver: str) -> Secret | None:
    """A PostgreSQL URL with the driver of ours where it names none."""
    plain = "postgresql://"
    if url is None or not url.value.startswith(plain):
        return url
    return dataclasses.replace(url, value=f"postgresql+{driver}://{url.value.removeprefix(plain)}")


def _require(what: str, module: str | None) -> None:
    if module and find_spec(module) is None:
        raise UserError(
            f"{what} needs the Python package {module}", "Install it: `pip install 'detcompose[server]'`."
        )


def choose(place: Place, asked: Mapping[str, Any], databases: Databases) -> Settings:
    """Settings of this start: what was asked for, else those of the last start, else the defaults.

    Args:
        place: Where the last settings are.
        asked: Options by name; None means not given.
        databases: The databases of this start.

    Raises:
        UserError: Something that cannot be, or that would be unsafe.
    """
    before = place.read("settings")
    known = {field.name for field in dataclasses.fields(Settings)}
    values = {name: value for name, value in before.items() if name in known}
    values |= {name: value for name, value in asked.items() if value is not None}
    for name in ("prefect_port", "mlflow_port", "relay_port"):
        if values.get(name) == 0:
            values[name] = free_port()
    # a machine that only worked for others yesterday may be a server today
    values["only"] = tuple(asked.get("only") or SELECTABLE)
    settings = Settings(**values)
    _check_only(settings.only)
    _check_ports(settings)
    if not is_loopback(settings.host) and not settings.auth:
        raise UserError(
            f"--host {settings.host} would let everybody who reaches this machine run code on it",
            "Add --auth, which makes both servers ask for a password, or leave out --host.",
        )
    if settings.auth and MLFLOW in settings.only:
        _require("--auth", "flask_wtf")
    _check_databases(place, before, databases)
    return settings


def save(place: Place, settings: Settings, databases: Databases) -> None:
    """Keeps the settings for the next start."""
    place.write("settings", {**dataclasses.asdict(settings), "databases": databases.kinds()})


def _check_only(only: Collection[str]) -> None:
    for name in only:
        if name not in SELECTABLE:
            raise UserError(f"--only {name}: there is no such service", f"One of: {', '.join(SELECTABLE)}.")
    missing = [
        variable
        for service, variable in ((PREFECT, "PREFECT_API_URL"), (MLFLOW, "MLFLOW_TRACKING_URI"))
        if service not in only and {WORKER, RELAY} & set(only) and not os.environ.get(variable)
    ]
    if missing:
        raise UserError(
            f"a worker or relay without its own servers needs {' and '.join(missing)}",
            "Set them to the team's servers (`detcompose status --env` over there prints them).",
        )


def _check_ports(settings: Settings) -> None:
    ports = list(settings.ports().values())
    for name, port in settings.ports().items():
        if not 0 < port < 65536:
            raise UserError(f"--{name}-port {port} is no port", "Choose one between 1024 and 65535.")
        if ports.count(port) > 1:
            raise UserError(f"--{name}-port {port} is given twice", "Give every service its own port.")


def _check_databases(place: Place, before: Mapping[str, Any], databases: Databases) -> None:
    """A forgotten variable must not silently begin anew in an empty database."""
    variables = {"prefect": PREFECT_DATABASE, "mlflow": MLFLOW_DATABASE, "artifacts": MLFLOW_ARTIFACTS}
    for name, kind in databases.kinds().items():
        last = _kind(before.get("databases", {}).get(name, kind))
        if last != kind:
            raise UserError(
                f"{variables[name]}: the last start used {last}, this one would use {kind}",
                f"Set the variable as before, or delete {place.root / 'settings.json'} if you mean it.",
            )


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_free(settings: Settings, names: Collection[str]) -> None:
    """Makes sure that nobody else listens where the named services are to listen.

    Raises:
        UserError: Names the port, and the option that moves the service elsewhere.
    """
    for name, port in settings.ports().items():
        host = LOOPBACK if name == RELAY else settings.host
        if name in names and not _can_listen(host, port):
            raise UserError(
                f"port {port} of {host}, which {name} is to listen on, is in use by another program",
                f"Stop it, or choose another with --{name}-port (0 takes a free one). "
                "If it is the `detcompose up` of another home, set DETCOMPOSE_HOME to that one.",
            )


def _can_listen(host: str, port: int) -> bool:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror as error:
        raise UserError(
            f"--host {host} is no address of this machine", "Use 127.0.0.1 or 0.0.0.0."
        ) from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # a port that was given up a moment ago is free, as the servers see it too
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
