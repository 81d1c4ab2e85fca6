"""The services themselves: command line, environment, and how one sees that they are well."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
import os
import site
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx

import flows
from flows.services.place import Place
from flows.services.secret_files import Secret, auth_string, fernet_key, from_environment, obtain, password
from flows.services.settings import (
    DEPLOYMENTS,
    HEARTBEAT_SECONDS,
    LOOPBACK,
    MLFLOW,
    MLFLOW_ARTIFACTS,
    MLFLOW_DATABASE,
    POOL,
    PREFECT,
    PREFECT_DATABASE,
    RELAY,
    WORKER,
    Databases,
    Settings,
)
from tasks.store import write_atomic

MLFLOW_USER = "admin"
PROBE_SECONDS = 3.0
_WORKER_GRACE = 45.0
_GRACE = 15.0

# what only a server may know; a flow run, and so whatever it starts, does not inherit it
_SERVER_ONLY = (
    PREFECT_DATABASE,
    MLFLOW_DATABASE,
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_API_AUTH_STRING",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "DETCOMPOSE_WEBHOOK_SECRET",
)


@dataclass(frozen=True, slots=True)
class Service:
    """One service, not yet running.

    Attributes:
        name: Its name.
        command: Program and arguments.
        environment: The whole environment; holds secrets.
        healthy: Whether it answers, given the time (seconds since the epoch) of its start.
        url: Where a person or program finds it, or "".
        grace: Seconds that it gets to stop.
        once: Whether it is done when it ends, like a set-up step.
        folder: Working directory; default: the folder of the services.
        private: Whether its files are closed to other users of the machine.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    healthy: Callable[[float], bool] = field(repr=False)
    url: str = ""
    grace: float = _GRACE
    once: bool = False
    folder: Path | None = None
    private: bool = False

    @property
    def digest(self) -> str:
        """What decides whether a running process is still the one that is asked for."""
        own = {
            name: value
            for name, value in self.environment.items()
            if name.startswith(("PREFECT", "MLFLOW", "DETCOMPOSE", "AWS"))
            and not name.startswith("PREFECT__")
        }
        return hashlib.sha256(json.dumps([self.command, sorted(own.items())]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Catalog:
    """All services of a start, and how others reach them.

    Attributes:
        services: In the order in which they are shown.
        exports: Environment variable to where its value is: ``{"value": ...}``, ``{"file": ...}`` or
            ``{"variable": ...}``; never a secret itself.
    """

    services: tuple[Service, ...]
    exports: dict[str, dict[str, str]]


def build(place: Place, settings: Settings, databases: Databases) -> Catalog:
    """Works out all services; makes the secrets that are missing.

    Raises:
        UserError: A secret cannot be read.
    """
    return _Builder(place, settings, databases).catalog()


class _Builder:
    def __init__(self, place: Place, settings: Settings, databases: Databases) -> None:
        self.place, self.settings, self.databases = place, settings, databases
        host = settings.client_host
        self.api = os.environ.get("PREFECT_API_URL", "")
        if PREFECT in settings.only:
            self.api = f"http://{host}:{settings.prefect_port}/api"
        self.tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
        if MLFLOW in settings.only:
            self.tracking = f"http://{host}:{settings.mlflow_port}"
        self.prefect_auth = self._secret(
            "PREFECT_SERVER_API_AUTH_STRING", "prefect-auth", PREFECT, auth_string
        )
        self.mlflow_auth = self._secret(
            "MLFLOW_AUTH_ADMIN_PASSWORD", "mlflow-admin-password", MLFLOW, password
        )

    def _secret(self, variable: str, name: str, server: str, make: Callable[[], str]) -> Secret | None:
        if not self.settings.auth or server not in self.settings.only:
            return None
        return obtain(self.place.home, variable, name, make)

    def catalog(self) -> Catalog:
        makers = {PREFECT: self._prefect, MLFLOW: self._mlflow, WORKER: self._worker}
        services = [makers[name]() for name in makers if name in self.settings.only]
        if WORKER in self.settings.only and find_spec("flows.deployments"):
            services.append(self._deployments())
        if RELAY in self.settings.only and self.has_relay:
            services.append(self._relay())
        return Catalog(tuple(services), self._exports())

    @property
    def has_relay(self) -> bool:
        return find_spec("flows.relay") is not None

    def _exports(self) -> dict[str, dict[str, str]]:
        exports = {"PREFECT_API_URL": {"value": self.api}, "MLFLOW_TRACKING_URI": {"value": self.tracking}}
        if self.prefect_auth:
            exports["PREFECT_API_AUTH_STRING"] = self.prefect_auth.reference()
        if self.mlflow_auth:
            exports["MLFLOW_TRACKING_USERNAME"] = {"value": MLFLOW_USER}
            exports["MLFLOW_TRACKING_PASSWORD"] = self.mlflow_auth.reference()
        return {name: value for name, value in exports.items() if value != {"value": ""}}

    def _base(self) -> dict[str, str]:
        """What every service inherits: this environment without what only a server may know."""
        environment = {name: value for name, value in os.environ.items() if name not in _SERVER_ONLY}
        for name in list(environment):
            # a file that holds such a secret is no business of a flow run either
            if name.removesuffix("_FILE") in _SERVER_ONLY or name.startswith("PREFECT__"):
                del environment[name]
        local = f"{LOOPBACK},localhost,::1"
        python_path = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        for name in ("NO_PROXY", "no_proxy"):
            environment[name] = ",".join(filter(None, [environment.get(name), local]))
        return environment | {
            "DETCOMPOSE_HOME": str(self.place.home.root),
            # an installation that is only a folder on the path stays importable from anywhere
            "PYTHONPATH": os.pathsep.join(dict.fromkeys([*_source_root(), *python_path])),
            "PYTHONUNBUFFERED": "1",
        }

    def _clients(self) -> dict[str, str]:
        """The environment of those that talk to the servers: worker, flow runs, relay."""
        given = {"PREFECT_API_URL": self.api, "MLFLOW_TRACKING_URI": self.tracking}
        # servers elsewhere have passwords that the user has given, perhaps in files
        login = {
            "PREFECT_API_AUTH_STRING": self.prefect_auth or from_environment("PREFECT_API_AUTH_STRING"),
            "MLFLOW_TRACKING_PASSWORD": self.mlflow_auth or from_environment("MLFLOW_TRACKING_PASSWORD"),
        }
        given |= {name: secret.value for name, secret in login.items() if secret}
        if self.mlflow_auth:
            given["MLFLOW_TRACKING_USERNAME"] = MLFLOW_USER
        # a restart of the servers takes half a minute on a busy machine: a run waits for longer than that
        habits = {
            "PREFECT_CLIENT_MAX_RETRIES": "6",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        }
        return self._base() | habits | given

    def _prefect(self) -> Service:
        settings = self.settings
        environment = self._base() | {
            "PREFECT_API_URL": self.api,
            # relative: the page works by whatever name or proxy it was opened
            "PREFECT_SERVER_UI_API_URL": os.environ.get("PREFECT_SERVER_UI_API_URL", "/api"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        }
        if self.databases.prefect:
            environment[PREFECT_DATABASE] = self.databases.prefect.value
        if self.prefect_auth:
            environment["PREFECT_SERVER_API_AUTH_STRING"] = self.prefect_auth.value
            environment["PREFECT_API_AUTH_STRING"] = self.prefect_auth.value
        where = ("--host", settings.host, "--port", str(settings.prefect_port))
        command = (sys.executable, "-m", "prefect", "server", "start", *where)
        url = f"http://{settings.client_host}:{settings.prefect_port}"
        probe = f"{url}/api/health"
        return Service(PREFECT, command, environment, lambda _: _answers(probe), url, private=settings.auth)

    def _mlflow(self) -> Service:
        settings, root = self.settings, self.place.home.root
        environment = self._base() | {
            MLFLOW_DATABASE: f"sqlite:///{root / 'mlflow.db'}",
            MLFLOW_ARTIFACTS: str(root / "mlflow-artifacts"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # jobs of language-model evaluation: four more processes that we have no use for
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # webhooks' secrets lie encrypted in the database; with another key they could not be read again
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": obtain(
                self.place.home, "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "webhook-encryption-key", fernet_key
            ).value,
        }
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            environment.pop(name, None)
        if RELAY in settings.only and self.has_relay:
            # MLflow knows no exception for one address: without these it refuses our relay on the loopback
            environment |= {
                "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
                "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            }
        for variable, given in (
            (MLFLOW_DATABASE, self.databases.mlflow),
            (MLFLOW_ARTIFACTS, self.databases.artifacts),
        ):
            if given:
                environment[variable] = given.value
        where = ("--host", settings.host, "--port", str(settings.mlflow_port), "--workers", "1")
        command: tuple[str, ...] = (sys.executable, "-m", "mlflow", "server", *where)
        if self.mlflow_auth:
            command += ("--app-name", "basic-auth")
            environment |= self._mlflow_login(environment[MLFLOW_DATABASE])
        url = f"http://{settings.client_host}:{settings.mlflow_port}"
        probe = f"{url}/health"
        return Service(MLFLOW, command, environment, lambda _: _answers(probe), url, private=settings.auth)

    def _mlflow_login(self, database: str) -> dict[str, str]:
        """Users lie beside the runs: in the same PostgreSQL, or in a SQLite file of their own."""
        assert self.mlflow_auth
        if database.startswith("sqlite"):
            database = f"sqlite:///{self.place.home.root / 'mlflow-users.db'}"
        path = self.place.root / "mlflow-auth.ini"
        # a percent sign begins a reference in such a file
        lines = ["[mlflow]", "default_permission = READ", f"database_uri = {database.replace('%', '%%')}"]
        path.touch(mode=0o600)
        write_atomic(path, "\n".join(lines).encode() + b"\n")
        path.chmod(0o600)
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(path),
            "MLFLOW_AUTH_ADMIN_USERNAME": MLFLOW_USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.mlflow_auth.value,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": obtain(
                self.place.home, "MLFLOW_FLASK_SERVER_SECRET_KEY", "mlflow-session-key", password
            ).value,
        }

    def _worker(self) -> Service:
        environment = self._clients()
        auth, name = environment.get("PREFECT_API_AUTH_STRING"), self.place.worker_name
        client = _client(elsewhere=PREFECT not in self.settings.only)
        return Service(
            WORKER,
            (sys.executable, "-m", "flows.services.worker"),
            environment,
            lambda since: _is_registered(client, self.api, auth, name, since),
            grace=_WORKER_GRACE,
        )

    def _deployments(self) -> Service:
        command = (sys.executable, "-m", "flows.services.deploy")
        # relative paths in the forms count from where the services were started
        return Service(DEPLOYMENTS, command, self._clients(), lambda _: True, once=True, folder=Path.cwd())

    def _relay(self) -> Service:
        url = f"http://{LOOPBACK}:{self.settings.relay_port}"
        environment = self._clients() | {
            "DETCOMPOSE_RELAY_REGISTER": f"{url}/webhooks/mlflow",
            "DETCOMPOSE_WEBHOOK_SECRET": obtain(
                self.place.home, "DETCOMPOSE_WEBHOOK_SECRET", "webhook-secret", password
            ).value,
        }
        where = ("--host", LOOPBACK, "--port", str(self.settings.relay_port))
        command = (sys.executable, "-m", "flows.relay", *where)
        return Service(RELAY, command, environment, lambda _: _answers(f"{url}/health"), url)


def _source_root() -> list[str]:
    root = str(Path(str(flows.__file__)).parents[1])
    # site-packages on PYTHONPATH would come before the standard library
    return [] if root in site.getsitepackages() else [root]


@functools.cache
def _client(elsewhere: bool = False) -> httpx.Client:
    """One for all questions: making one reads all certificates of the machine.

    Args:
        elsewhere: Whether it asks another machine: perhaps through a proxy, with certificates of its own.
    """
    return httpx.Client(trust_env=elsewhere, timeout=PROBE_SECONDS)


def _answers(url: str) -> bool:
    try:
        return _client().get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _is_registered(client: httpx.Client, api: str, auth: str | None, name: str, since: float) -> bool:
    """Whether the worker has reported to the server after it was started."""
    headers = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    try:
        answer = client.post(f"{api}/work_pools/{POOL}/workers/filter", json={}, headers=headers)
        workers = answer.json() if answer.is_success else []
        seen = [worker["last_heartbeat_time"] for worker in workers if worker["name"] == name]
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return any(value and datetime.datetime.fromisoformat(value).timestamp() >= since for value in seen)
