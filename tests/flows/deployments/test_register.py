"""Registering deployments, limits and the pool on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from flows.deployments import DEPLOYMENTS, POOL, deploy
from flows.deployments.register import make_limits
from flows.deployments.table import recomposition
from flows.recipe import Recipe
from tasks.devices import Device
from tests.flows.conftest import small_recipe

pytestmark = pytest.mark.usefixtures("at_the_server")


def test_everything_is_registered_and_twice_changes_nothing(tmp_path: Path, scenes: Path) -> None:
    recipe = Recipe.model_validate(small_recipe(scenes))
    entries = (*DEPLOYMENTS, recomposition(recipe, "0 3 * * *"))
    names = deploy(working_dir=tmp_path, deployments=entries)
    assert {"compose/compose", "evaluate/evaluate", "promote/promote", "recompose/digits"} <= set(names)
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(POOL).type == "process"
        before = [client.read_deployment_by_name(name) for name in names]
        assert deploy(working_dir=tmp_path, deployments=entries) == names
        after = [client.read_deployment_by_name(name) for name in names]
    assert [one.id for one in after] == [one.id for one in before]
    compose, again = after[0], after[-1]
    assert compose.global_concurrency_limit is not None
    assert compose.global_concurrency_limit.limit == 1
    assert compose.description == "Several detectors become one, without labels."
    assert "detcompose" in compose.tags
    # nothing of the worker's folder may be copied for a run
    (step,) = compose.pull_steps or []
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    assert [one.schedule.cron for one in again.schedules] == ["0 3 * * *"]  # type: ignore[union-attr]
    assert Recipe.model_validate(again.parameters["recipe"]) == recipe


def test_the_server_refuses_wrong_answers(tmp_path: Path) -> None:
    deploy(working_dir=tmp_path)
    with get_client(sync_client=True) as client:
        compose = client.read_deployment_by_name("compose/compose")
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            client.create_flow_run_from_deployment(
                compose.id, parameters={"recipe": {"file": "r.yaml"}, "limit": "many"}
            )


def test_a_limit_that_a_person_changed_stays() -> None:
    device = Device("cuda:0", "0a1b2c3d")
    make_limits([device])
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(device.limit).limit == 1
        client.upsert_global_concurrency_limit_by_name(device.limit, 2)
        make_limits([device])
        assert client.read_global_concurrency_limit_by_name(device.limit).limit == 2
