"""`detcompose up` with real servers: passwords, clients, and everything that may be killed is killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Cancelling
from prefect.types.entrypoint import EntrypointType

from flows.compose import compose
from flows.services import processes
from flows.services.settings import POOL
from model_zoo import training_checkpoint
from tests.flows.conftest import ROOT, small_recipe
from tests.flows.services.conftest import DETCOMPOSE, Services, wait_for

WEBHOOK = "kept"


def test_without_a_password_nothing_is_told(services: Services) -> None:
    urls = services.exports()
    flows = f"{urls['PREFECT_API_URL']}/flows/filter"
    runs = f"{urls['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    prefect = tuple(urls["PREFECT_API_AUTH_STRING"].split(":"))
    mlflow = (urls["MLFLOW_TRACKING_USERNAME"], urls["MLFLOW_TRACKING_PASSWORD"])
    with httpx.Client(timeout=60) as client:
        for login in (None, ("admin", "guess")):
            assert client.post(flows, json={}, auth=login).status_code == 401
            assert client.get(runs, auth=login).status_code == 401
        assert client.post(flows, json={}, auth=(prefect[0], prefect[1])).status_code == 200
        assert client.get(runs, auth=mlflow).status_code == 200


def test_secrets_are_in_closed_files_and_nowhere_else(services: Services) -> None:
    secrets = [path.read_bytes().strip() for path in (services.root / "secrets").iterdir()]
    assert len(secrets) >= 4
    seen = [path for path in (services.root / "services").rglob("*") if path.is_file()]
    seen += [Path(f"/proc/{pid}/cmdline") for pid in services.living()]
    assert len(seen) > 8
    for path in seen:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    shown = services.command("status", "--env").stdout + services.command("status", "--json").stdout
    assert not any(secret.decode() in shown for secret in secrets)
    for path in services.root.rglob("*.db"):
        assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"


def test_a_webhook_can_be_made(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its secret is read again by another server, in `test_a_killed_server_...`."""
    connection = _mlflow(services, monkeypatch)
    connection.create_webhook(WEBHOOK, "https://93.184.216.34/hook", ["prompt.created"], secret="s" * 20)


def _mlflow(services: Services, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in services.exports().items():
        if name.startswith("MLFLOW"):
            monkeypatch.setenv(name, value)
    return MlflowClient(services.exports()["MLFLOW_TRACKING_URI"])


@pytest.fixture
def deployment(services: Services) -> Iterator[str]:
    """The main job, known to the server."""
    with services.prefect():
        made = RunnerDeployment.from_flow(
            compose,
            name="crash-test",
            work_pool_name=POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,
            job_variables={"working_dir": str(ROOT)},
        )
        made.apply()
        yield "compose/crash-test"


def _start(deployment: str, recipe: dict[str, object]) -> UUID:
    run = run_deployment(deployment, parameters={"recipe": recipe}, timeout=0)
    assert isinstance(run, FlowRun)
    return run.id


def _state(services: Services, run: UUID) -> str:
    with services.prefect() as client:
        state = client.read_flow_run(run).state
    assert state
    return state.name


def _stamps(services: Services) -> dict[str, int]:
    found = (services.root / "store" / "detections").glob("[!.]*/detections.parquet")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_a_killed_server_comes_back_and_the_run_goes_on(
    services: Services, deployment: str, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _start(deployment, small_recipe(scenes, name="server", generate={"shard_size": 12}, evaluate=[]))
    before = {name: services.service(name) for name in ("prefect", "mlflow")}
    wait_for(lambda: _stamps(services))
    for service in before.values():
        services.kill(service["pid"])
    wait_for(lambda: all(services.service(name)["restarts"] == 1 for name in before))
    wait_for(services.well)
    for name, service in before.items():
        assert services.service(name)["url"] == service["url"]
        assert services.service(name)["pid"] != service["pid"]
    wait_for(lambda: _state(services, run) not in ("Pending", "Running"), seconds=450, pause=1)
    assert _state(services, run) == "Completed"
    connection = _mlflow(services, monkeypatch)
    assert [hook.name for hook in connection.list_webhooks() if hook.name == WEBHOOK], (
        "its secret is readable"
    )
    assert connection.get_model_version("students.server", "1").status == "READY"


def test_a_killed_worker_ends_its_run_clearly_and_the_next_one_goes_on(
    services: Services, deployment: str, scenes: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(scenes, name="worker", generate={"shard_size": 5}, seed=1, evaluate=[])
    before = set(_stamps(services))
    run = _start(deployment, recipe)
    wait_for(lambda: len(set(_stamps(services)) - before) >= 2)
    worker = services.service("worker")
    services.kill(worker["pid"])
    wait_for(lambda: _state(services, run) not in ("Pending", "Running"), pause=0.5)
    with services.prefect() as client:
        state = client.read_flow_run(run).state
    assert state
    assert state.name == "Crashed"
    wait_for(lambda: services.service("worker")["restarts"] == worker["restarts"] + 1)
    wait_for(services.well)
    assert len(processes.find(services.place.identity, "worker")) == 1, "the run did not outlive its worker"
    done = _stamps(services)

    # in another shell, which knows nothing of servers and passwords
    path = tmp_path / "worker.yaml"
    path.write_text(yaml.safe_dump(recipe))
    again = services.command("compose", str(path), "--json")
    assert again.returncode == 0, again.stderr
    now = _stamps(services)
    assert {name: now[name] for name in done} == done, "finished shards are not made again"
    assert len(now) > len(done)
    with services.prefect() as client:
        runs = [one for one in client.read_flow_runs() if one.name == "compose worker"]
    assert sorted(str(one.state and one.state.name) for one in runs) == ["Completed", "Crashed"]


def test_a_worker_killed_during_training_goes_on_from_the_last_checkpoint(
    services: Services, deployment: str, scenes: Path
) -> None:
    recipe = small_recipe(scenes, name="trained", seed=2, evaluate=[], calibrate={"method": "none"})
    # longer than this test takes: it ends by being stopped
    recipe["student"] |= {"epochs": 2000, "image_size": 64}
    work = services.root / "store" / "work"
    run = _start(deployment, recipe)
    wait_for(lambda: list(work.glob("students-*/run/checkpoint.safetensors")), seconds=400)
    worker = services.service("worker")
    services.kill(worker["pid"])
    wait_for(lambda: _state(services, run) == "Crashed", seconds=240, pause=0.5)
    wait_for(lambda: services.service("worker")["restarts"] == worker["restarts"] + 1)
    wait_for(services.well)
    assert len(processes.find(services.place.identity, "worker")) == 1, "it did not outlive its worker"
    (path,) = work.glob("students-*/run/checkpoint.safetensors")
    checkpoint = training_checkpoint.load(path.parent)
    assert checkpoint, "it is whole"
    assert checkpoint.step > 0

    again = _start(deployment, recipe)
    log = path.with_name("training.log")
    wait_for(lambda: f"resumed at step {checkpoint.step} of" in log.read_text(), seconds=400)
    with services.prefect() as client:
        client.set_flow_run_state(again, Cancelling())
    wait_for(lambda: _state(services, again) == "Cancelled", seconds=240, pause=0.5)


def test_a_second_up_is_refused(services: Services) -> None:
    done = services.command("up")
    assert done.returncode == 2
    assert "run already (process" in done.stderr
    assert "detcompose down" in done.stderr


def test_a_killed_up_leaves_services_that_the_next_one_takes_over(services: Services) -> None:
    before = {name: services.service(name)["pid"] for name in ("prefect", "mlflow", "worker")}
    services.kill(services.supervisor())
    shown = services.command("status")
    assert shown.returncode == 1
    assert "unattended" in shown.stdout
    assert "detcompose down" in " ".join(shown.stdout.split())
    services.up()
    assert {name: services.service(name)["pid"] for name in before} == before
    assert services.command("status").returncode == 0

    services.kill(services.supervisor())
    assert len(services.living()) >= 4
    done = services.command("down")
    assert "left behind" in done.stdout
    assert services.living() == []
    assert "no services run" in services.command("down").stdout
    assert services.command("status", "--env").returncode == 2


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    services = Services(tmp_path / "home")
    process = subprocess.Popen(
        [*DETCOMPOSE, "up", "--only", "mlflow", "--mlflow-port", "0"],
        env=services.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: services.state().get("services", {}).get("mlflow", {}).get("phase") == "healthy")
    assert len(services.living()) >= 2, "MLflow's command and its server"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "mlflow      stopped" in out
    assert services.living() == []


def test_a_service_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    nobody = "postgresql+asyncpg://me:hunter2@127.0.0.1:1/prefect"
    services = Services(tmp_path / "home", PREFECT_SERVER_DATABASE_CONNECTION_URL=nobody)
    done = services.command("up", "--only", "prefect", "--prefect-port", "0")
    assert done.returncode == 2
    assert "prefect ended with exit code" in done.stderr
    assert "  | " in done.stderr
    assert "prefect.log" in done.stderr
    assert "hunter2" not in done.stderr + services.place.log_file("prefect").read_text()
    assert services.living() == []
