"""The servers as a team runs them: on PostgreSQL and an S3 store, backed up and restored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer
from prefect.client.schemas.actions import WorkPoolCreate

from tests.flows.services.conftest import Services
from tests.flows.services.databases import Postgres, postgres

ACCESS = {"AWS_ACCESS_KEY_ID": "detcompose", "AWS_SECRET_ACCESS_KEY": "s3-secret-of-the-test"}
BUCKET = "mlflow"


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        for name in ("prefect", "mlflow"):
            server.run("createdb", name)
        yield server


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Address of an S3 interface with an empty bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _s3(address: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
    )


def test_both_servers_keep_their_state_outside(
    database: Postgres, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _s3(store).create_bucket(Bucket=BUCKET)
    url = tmp_path / "mlflow-database"
    url.write_text(database.url("mlflow") + "\n")
    services = Services(
        tmp_path / "home",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=database.url("prefect", "postgresql+asyncpg"),
        MLFLOW_BACKEND_STORE_URI_FILE=str(url),
        MLFLOW_ARTIFACTS_DESTINATION=f"s3://{BUCKET}/artifacts",
        MLFLOW_S3_ENDPOINT_URL=store,
        **ACCESS,
    )
    ports = ["--prefect-port", "0", "--mlflow-port", "0"]
    try:
        services.up("--only", "prefect", "--only", "mlflow", "--auth", *ports)
        _use(services, tmp_path, monkeypatch)
        _look(services, database, store)
        for pid in services.living():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert database.password.encode() not in command
    finally:
        services.close()
    forgotten = Services(services.root).command("up")
    assert forgotten.returncode == 2
    assert "the last start used postgresql" in forgotten.stderr


def _use(services: Services, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without any access to the store: the server hands the artifacts on."""
    for name, value in services.exports().items():
        monkeypatch.setenv(name, value)
    connection = MlflowClient(services.exports()["MLFLOW_TRACKING_URI"])
    run = connection.create_run(connection.create_experiment("team")).info
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    connection.log_artifact(run.run_id, str(folder / "weights.safetensors"), "student")
    connection.create_registered_model("students.team")
    connection.create_model_version("students.team", f"{run.artifact_uri}/student", run.run_id)
    fetched = connection.download_artifacts(run.run_id, "student/weights.safetensors", str(folder))
    assert Path(fetched).read_bytes() == bytes(range(256))
    with services.prefect() as client:
        client.create_work_pool(WorkPoolCreate(name="team", type="process"))


def _look(services: Services, database: Postgres, store: str) -> None:
    objects = _s3(store).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [one["Key"].rpartition("/")[2] for one in objects] == ["weights.safetensors"]
    assert objects[0]["Key"].startswith("artifacts/")
    users = database.run("psql", "-d", "mlflow", "-Atc", "select username from users")
    assert database.run("psql", "-d", "prefect", "-Atc", "select name from work_pool") == "team"
    assert users == "admin", "MLflow's users lie beside its runs"
    assert not list(services.root.rglob("*.db"))
    # as docs/operations.md says
    dump = services.root / "mlflow.dump"
    database.run("pg_dump", "-Fc", "-d", "mlflow", "-f", str(dump))
    database.run("createdb", "restored")
    database.run("pg_restore", "-d", "restored", "--exit-on-error", str(dump))
    assert (
        database.run("psql", "-d", "restored", "-Atc", "select name from registered_models")
        == "students.team"
    )
    settings = json.loads((services.root / "services" / "settings.json").read_text())
    assert settings["databases"] == {
        "prefect": "postgresql+asyncpg",
        "mlflow": "postgresql",
        "artifacts": "s3",
    }
    assert database.password not in (services.root / "services" / "state.json").read_text()
