"""A cron line starts a recomposition by itself, and a student comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun

from flows.deployments import deploy
from flows.deployments.table import recomposition
from flows.recipe import Recipe
from tests.flows.conftest import small_recipe
from tests.flows.deployments.conftest import System, wait_until

pytestmark = pytest.mark.usefixtures("at_the_server")


def test_a_cron_line_makes_a_student_with_no_hand_on_it(system: System, scenes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(scenes, name="nightly", evaluate=[], calibrate={"method": "none"})
    # whole minutes are the shortest that a cron line can say
    entry = recomposition(Recipe.model_validate(recipe), "* * * * *")
    assert deploy(working_dir=tmp_path, deployments=[entry]) == ["recompose/nightly"]
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("recompose/nightly")
        ours = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

        def scheduled() -> list[FlowRun]:
            found = client.read_flow_runs(deployment_filter=ours)
            return sorted(found, key=lambda run: run.expected_start_time or run.created)

        try:
            wait_until(lambda: bool(scheduled()), 60, "a run of the scheduler's")
            first = scheduled()[0]
            assert first.auto_scheduled
            system.wait(first.id, "Running")
        finally:
            # takes back those of the next minutes
            client.pause_deployment(deployment.id)
        system.wait(first.id, "Completed")
        flow = FlowFilter(name=FlowFilterName(any_=["compose"]))
        runs = client.read_flow_runs(flow_filter=flow)
    (composed,) = [run for run in runs if (run.idempotency_key or "").startswith("composition-")]
    system.wait(composed.id, "Completed")
    (student,) = MlflowClient(f"sqlite:///{system.home / 'mlflow.db'}").search_model_versions(
        "name = 'students.nightly'"
    )
    assert composed.idempotency_key == f"composition-{student.tags['composition']}-1"
