"""Real services: a whole `detcompose up` in a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.services import processes
from flows.services.place import Place
from tasks.home import Home
from tests.flows.conftest import ROOT, scenes  # noqa: F401

DETCOMPOSE = [sys.executable, "-c", "from flows.cli.main import main; main()"]


def wait_for(condition: Callable[[], Any], seconds: float = 240, pause: float = 0.2) -> Any:
    """Waits until something is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(pause)
    return found


class Services:
    """A home whose services are started, killed and asked as a user would.

    Args:
        root: The home folder.
        environment: More environment variables.
    """

    def __init__(self, root: Path, **environment: str) -> None:
        self.root = root
        self.place = Place(Home(root))
        self._exports: dict[str, str] = {}
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT", "MLFLOW", "DETCOMPOSE_HOME"))
        }
        self.environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "DETCOMPOSE_HOME": str(root),
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs one of our commands to its end."""
        return subprocess.run(
            [*DETCOMPOSE, *words],
            env=self.environment | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def up(self, *words: str) -> str:
        """Starts everything in the background and waits until it is well."""
        done = self.command("up", "--detach", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self) -> dict[str, Any]:
        """What the supervisor has written down."""
        return self.place.read("state")

    def supervisor(self) -> int:
        """Process id of the `up` that runs."""
        found = self.place.supervisor()
        assert found
        return found

    def service(self, name: str) -> dict[str, Any]:
        """One service of the state."""
        found: dict[str, Any] = self.state()["services"][name]
        return found

    def well(self) -> bool:
        """Whether the supervisor finds all services well."""
        services = self.state().get("services", {})
        return bool(services) and all(one["phase"] in ("healthy", "done") for one in services.values())

    def kill(self, pid: int) -> None:
        """SIGKILL, and it is gone."""
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not processes.is_alive(pid))

    def living(self) -> list[int]:
        """All processes of the home."""
        return [found.pid for found in processes.find(self.place.identity)]

    def exports(self) -> dict[str, str]:
        """The environment that `status --env` gives to a shell."""
        if self._exports:
            return self._exports
        lines = self.command("status", "--env").stdout
        shown = subprocess.run(
            ["bash", "-c", f"{lines}\nenv -0"],
            capture_output=True,
            text=True,
            check=True,
            env=self.environment,
        )
        values = dict(entry.split("=", 1) for entry in shown.stdout.split("\0") if "=" in entry)
        self._exports = {
            name: text for name, text in values.items() if name.startswith(("PREFECT_", "MLFLOW_"))
        }
        return self._exports

    @contextmanager
    def prefect(self) -> Iterator[SyncPrefectClient]:
        """A client of the Prefect server, which is also this process's for the time being."""
        exports = self.exports()
        updates = {
            PREFECT_API_URL: exports["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: exports.get("PREFECT_API_AUTH_STRING"),
        }
        with temporary_settings(updates), get_client(sync_client=True) as client:
            yield client

    def close(self) -> None:
        """Leaves nothing behind, whatever a test has done."""
        self.command("down")
        processes.send(self.living(), signal.SIGKILL)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Servers with passwords and a worker, for all tests that do not mind what others did to them."""
    made = Services(tmp_path_factory.mktemp("services") / "home")
    try:
        made.up("--auth", "--prefect-port", "0", "--mlflow-port", "0", "--relay-port", "0")
        yield made
    finally:
        made.close()
