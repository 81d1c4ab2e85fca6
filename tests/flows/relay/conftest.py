"""A relay between a real MLflow server and a real Prefect server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL

from tasks import tracking
from tasks.home import Home
from tasks.webhooks import register_webhook
from tests.flows.conftest import prefect_server, scenes, small_recipe  # noqa: F401
from tests.servers import free_port, process

ROOT = Path(__file__).resolve().parents[3]
KEY = "test-secret-0123456789abcdef"


@dataclass(frozen=True)
class System:
    """Where everything is.

    Attributes:
        home: The home folder of the relay and of the flow runs.
        relay: Address of the relay.
        environment: For processes of ours.
    """

    home: Home
    relay: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def system(
    prefect_server: None,  # noqa: F811
    mlflow_address: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("relay")
    home = Home(folder / "home")
    environment = {
        "PYTHONPATH": str(ROOT),
        "DETCOMPOSE_HOME": str(home.root),
        "MLFLOW_TRACKING_URI": mlflow_address,
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "DETCOMPOSE_WEBHOOK_SECRET": KEY,
    }
    port = free_port()
    command = [sys.executable, "-m", "flows.relay", "--port", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETCOMPOSE_HOME", str(home.root))
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_address)
        with process(command, folder / "relay.log", f"http://127.0.0.1:{port}/health", environment):
            yield System(home, f"http://127.0.0.1:{port}/webhooks/mlflow", environment)


@contextmanager
def webhook(system: System) -> Iterator[None]:
    """The server sends to the relay while the block runs."""
    connection = tracking.client(system.home)
    hook = register_webhook(connection, system.relay, KEY)
    try:
        yield
    finally:
        connection.delete_webhook(hook.webhook_id)


SERVE = """
import sys, yaml
from pathlib import Path
from flows.environment import make_home
make_home()
from prefect import serve
from flows.compose import compose
from flows.recompose import recompose
recipe = yaml.safe_load(Path(sys.argv[1]).read_text())
serve(
    recompose.to_deployment("auto", parameters={"recipe": recipe, "hand_over_to": "compose/auto"}),
    compose.to_deployment("auto"),
)
"""


@pytest.fixture(scope="module")
def deployed(system: System, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:  # noqa: F811
    """Deployments ``recompose/auto`` and ``compose/auto``, served; yields the recipe."""
    folder = tmp_path_factory.mktemp("deployed")
    recipe = small_recipe(scenes, name="auto", teachers=["teachers/auto-*@champion"], evaluate=[])
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", SERVE, str(path)]
    port = free_port()
    environment = {
        **system.environment,
        # the runner's own health page tells when it is ready
        "PREFECT_RUNNER_SERVER_ENABLE": "true",
        "PREFECT_RUNNER_SERVER_PORT": str(port),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with process(command, folder / "runner.log", f"http://127.0.0.1:{port}/health", environment):
        yield path


def runs_of(flow: str) -> list[FlowRun]:
    """All runs of a flow, oldest first."""

    async def read() -> Any:
        async with get_client() as client:
            return await client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))

    return sorted(asyncio.run(read()), key=lambda run: run.created)
