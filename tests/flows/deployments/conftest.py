"""A real server with our deployments and a real worker, once for all tests of this folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from tests.flows.conftest import ROOT


@dataclass(frozen=True)
class System:
    """The worker's home, and the server through its API."""

    home: Path

    def start(self, deployment: str, **parameters: Any) -> UUID:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run(self, run: UUID) -> FlowRun:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run)

    def wait(self, run: UUID, state: str, seconds: float = 400) -> FlowRun:
        """Waits for a state by name; another final one is an error."""

        def reached() -> bool:
            now = self.run(run).state
            assert now is not None
            assert now.name == state or not now.is_final(), f"{now.name}: {now.message}"
            return now.name == state

        wait_until(reached, seconds, state)
        return self.run(run)

    def cancel(self, run: UUID) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Cancelling())

    def tasks(self, run: UUID) -> list[TaskRun]:
        with get_client(sync_client=True) as client:
            return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))

    def artifacts(self, run: UUID) -> dict[str, Artifact]:
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
            )
        return {one.key: one for one in found if one.key}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.2)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with its UI and the service that ends expired pauses: the test harness has neither."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, address.rpartition(":")[2]], env=environment, stdout=log, stderr=log
        )

        def healthy() -> bool:
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                return bool(urlopen(f"{address}/api/health", timeout=5).status == 200)
            except OSError:
                return False

        try:
            wait_until(healthy, 180, "the server")
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def at_the_server(server: str) -> Iterator[None]:
    """Clients in the test speak with this server, whichever the session has started before or after it."""
    with temporary_settings({PREFECT_API_URL: f"{server}/api"}):
        yield


@pytest.fixture(scope="package")
def system(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    from flows.deployments import POOL, deploy

    folder = tmp_path_factory.mktemp("worker")
    with temporary_settings({PREFECT_API_URL: f"{server}/api"}):
        deploy(working_dir=folder)
    environment = {
        **os.environ,
        "DETCOMPOSE_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{server}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        yield System(folder / "home")
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(60)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
