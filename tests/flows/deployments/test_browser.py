"""The form of `compose`, filled in by a real browser on the UI of a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

from flows.deployments import deploy
from flows.deployments.forms import CommonSettings
from tests.flows.deployments.chromium import CHROMIUM, Browser

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.usefixtures("at_the_server"),
]


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
        runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    run = next(one for one in runs if "architecture" in one.parameters.get("recipe", {}))
    assert run.deployment_id == found.id
    form = CommonSettings.model_validate(run.parameters["recipe"])
    assert form == CommonSettings(
        name="digits-form",
        teachers=["low", "high"],
        images=Path("/pool"),
        architecture="rtmdet_pico",
        image_size=96,
    )
