"""deployments/compose.yaml without Docker: its commands and environments as plain processes.

PostgreSQL comes from the machine's packages and the S3 store is moto's server;
each container is a home folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer
from prefect.client.schemas.objects import WorkerStatus

from flows.services import team_secrets
from flows.services.bucket import make_bucket
from flows.services.settings import POOL
from tests.flows.conftest import ROOT
from tests.flows.services.conftest import Services
from tests.flows.services.databases import Postgres, postgres

COMPOSE = yaml.safe_load((ROOT / "deployments" / "compose.yaml").read_text())


class Team:
    """The compose file's services, with the addresses of this machine put in place of the containers'.

    Args:
        folder: Where homes and secrets lie.
        addresses: Address in the compose file to address here; grows as services come up.
    """

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.secrets = folder / "secrets"
        self.addresses = addresses
        self.running: dict[str, Services] = {}
        self._folder = folder

    def environment(self, name: str) -> dict[str, str]:
        text = json.dumps(COMPOSE["services"][name]["environment"]).replace("/run/secrets", str(self.secrets))
        for there, here in self.addresses.items():
            text = text.replace(there, here)
        values: dict[str, str] = json.loads(text)
        return values

    def start(self, name: str) -> Services:
        """Runs a service's command; it keeps to the loopback and takes free ports."""
        made = Services(self._folder / name, **self.environment(name))
        self.running[name] = made
        words = [word.replace("0.0.0.0", "127.0.0.1") for word in COMPOSE["services"][name]["command"][1:]]
        made.up(*words, "--prefect-port", "0", "--mlflow-port", "0", "--relay-port", "0")
        return made

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Address of an S3 interface."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Path]]:
    folder = tmp_path_factory.mktemp("team")
    assert team_secrets.write(folder / "secrets")
    with postgres((folder / "secrets" / "database-password").read_text().strip()) as server:
        server.run("createdb", COMPOSE["services"]["database"]["environment"]["POSTGRES_DB"])
        server.run("psql", "-d", "postgres", "-c", COMPOSE["configs"]["databases"]["content"])
        yield server, folder


@pytest.fixture
def team(database: tuple[Postgres, Path], store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    server, folder = database
    made = Team(folder, {"objects:8333": store})
    for name in ("prefect-database", "mlflow-database"):
        file = made.secrets / name
        url = file.read_text().replace("database:5432", f"127.0.0.1:{server.port}")
        file.unlink()
        file.write_text(url)
    for name, value in made.environment("bucket").items():
        monkeypatch.setenv(name, value)
    try:
        yield made
    finally:
        for services in reversed(made.running.values()):
            services.close()


def test_the_team_server_runs(
    database: tuple[Postgres, Path], team: Team, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket,) = COMPOSE["services"]["bucket"]["entrypoint"][3:]
    assert make_bucket(bucket, f"http://{store}")
    assert not make_bucket(bucket, f"http://{store}"), "it is there"

    prefect = team.start("prefect")
    team.addresses["http://prefect:4200"] = prefect.service("prefect")["url"]
    mlflow = team.start("mlflow")
    assert set(mlflow.state()["services"]) == {"mlflow", "relay"}
    team.addresses["http://mlflow:5000"] = mlflow.service("mlflow")["url"]
    team.start("worker")

    _use_mlflow(team, tmp_path, monkeypatch)
    with prefect.prefect() as client:
        workers = client.request("POST", f"/work_pools/{POOL}/workers/filter", json={}).json()
    assert [worker["status"] for worker in workers] == [WorkerStatus.ONLINE.value]
    _look(database[0], team, bucket, store, tmp_path)
    for services in team.running.values():
        for pid in services.living():
            command = Path(f"/proc/{pid}/cmdline").read_text()
            assert not any(file.read_text().strip() in command for file in team.secrets.iterdir())

    assert prefect.command("status").returncode == 0, "as the image's health check asks"
    prefect.close()
    forgotten = Services(prefect.root).command("up", "--only", "prefect")
    assert forgotten.returncode == 2
    assert "the last start used postgresql" in forgotten.stderr


def _use_mlflow(team: Team, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without any access to the store: the server hands the artifacts on."""
    environment = team.environment("worker")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", environment["MLFLOW_TRACKING_USERNAME"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", team.secret("mlflow-admin-password"))
    connection = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    assert [hook.name for hook in connection.list_webhooks()] == ["detcompose"], (
        "the relay has introduced itself"
    )
    run = connection.create_run(connection.create_experiment("team")).info
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    connection.log_artifact(run.run_id, str(folder / "weights.safetensors"), "student")
    connection.create_registered_model("students.team")
    connection.create_model_version("students.team", f"{run.artifact_uri}/student", run.run_id)
    fetched = connection.download_artifacts(run.run_id, "student/weights.safetensors", str(folder))
    assert Path(fetched).read_bytes() == bytes(range(256))


def _look(database: Postgres, team: Team, bucket: str, store: str, folder: Path) -> None:
    """Everything is where it should be, and comes back from a backup as docs/operations.md makes it."""
    objects: list[dict[str, Any]] = boto3.client("s3", endpoint_url=f"http://{store}").list_objects_v2(
        Bucket=bucket
    )["Contents"]
    assert [one["Key"].rpartition("/")[2] for one in objects] == ["weights.safetensors"]
    assert objects[0]["Key"].startswith("artifacts/")
    assert database.run("psql", "-d", "prefect", "-Atc", "select name from work_pool") == POOL
    users = database.run("psql", "-d", "mlflow", "-Atc", "select username from users")
    assert users == "admin", "MLflow's users lie beside its runs"
    for name in ("prefect", "mlflow"):
        assert not list(team.running[name].root.rglob("*.db"))
    dump = folder / "mlflow.dump"
    database.run("pg_dump", "-Fc", "-d", "mlflow", "-f", str(dump))
    database.run("createdb", "restored")
    database.run("pg_restore", "-d", "restored", "--exit-on-error", str(dump))
    names = database.run("psql", "-d", "restored", "-Atc", "select name from registered_models")
    assert names == "students.team"
