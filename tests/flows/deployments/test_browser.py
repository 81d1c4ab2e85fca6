"""The form of `compose`, filled in by a real browser on the UI of a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployments import deploy
from flows.deployments.forms import CommonSettings
from tests.flows.deployments.chromium import CHROMIUM, Browser
from tests.flows.deployments.conftest import wait_until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server with its UI, which the test harness leaves out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, address.rpartition(":")[2]], env=environment, stdout=log, stderr=log
        )

        def healthy() -> bool:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            try:
                return bool(urlopen(f"{address}/api/health", timeout=5).status == 200)
            except OSError:
                return False

        try:
            wait_until(healthy, 180, "the server")
            with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
                yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_composition_is_started_from_its_form(server: str, tmp_path: Path) -> None:
    deploy(working_dir=tmp_path)
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("compose/compose")
    (tmp_path / "profile").mkdir()
    with Browser(tmp_path / "profile") as page:
        page.open(f"{server}/v2/deployments/deployment/{found.id}/run")
        page.wait_for("What to compose.")
        page.click("Common settings")
        page.wait_for("Name of the student in the registry.")
        # descriptions and defaults are there, and nothing has to be written as JSON
        assert "Side of the square network input in pixels" in page.text()
        assert page.evaluate("document.querySelectorAll('.cm-editor').length") == 0
        page.fill("Name", "digits-form")
        for number, teacher in enumerate(("low", "high")):
            page.click("Add item")
            page.evaluate(f"document.querySelectorAll('textarea')[{1 + number}].focus()")
            page.type(teacher)
        page.fill("Unlabeled images", "/pool")
        page.click("Architecture")
        page.click("rtmdet_pico")
        page.fill("Image Size", "96")
        page.click("Submit")
        page.wait_for("scheduled to start now")
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs()
    assert run.deployment_id == found.id
    form = CommonSettings.model_validate(run.parameters["recipe"])
    assert form == CommonSettings(
        name="digits-form",
        teachers=["low", "high"],
        images=Path("/pool"),
        architecture="rtmdet_pico",
        image_size=96,
    )
