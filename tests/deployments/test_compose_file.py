"""deployments/: what can be said about the files without a Docker engine."""

from __future__ import annotations

import importlib.util
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from cryptography.fernet import Fernet

from flows.cli.main import app
from flows.services import team_secrets
from flows.services.settings import SELECTABLE

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "detcompose"]


def test_the_file_is_of_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(FOLDER / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_reference_leads_somewhere() -> None:
    for name, service in SERVICES.items():
        secrets = set(service.get("secrets", []))
        assert secrets <= set(COMPOSE["secrets"]), name
        mounted = {volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in "$./"}
        assert mounted <= set(COMPOSE["volumes"]), name
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        assert {config["source"] for config in service.get("configs", [])} <= set(COMPOSE["configs"]), name
        used = set(re.findall(r"/run/secrets/([\w.-]+)", yaml.safe_dump(service)))
        assert used == secrets, f"{name} is given the secrets that it reads and no others"
    assert set(COMPOSE["secrets"]) == set(team_secrets.team_secrets())


def test_addresses_are_those_of_services() -> None:
    for host, port in re.findall(r"http://([\w-]+):(\d+)", yaml.safe_dump(COMPOSE)):
        assert host in SERVICES
        published = [entry.split(":") for entry in SERVICES[host].get("ports", [])]
        assert not published or published == [["127.0.0.1", port, port]], "the loopback only"


def test_no_secret_is_written_into_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|AUTH|CONNECTION_URL|STORE_URI|CREDENTIALS", variable):
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"


@pytest.mark.parametrize("name", [name for name in OURS if name != "bucket"])
def test_the_commands_are_understood(name: str) -> None:
    service = SERVICES[name]
    command: Any = typer.main.get_command(app)
    word, *options = service["command"]
    context = command.commands[word].make_context(word, list(options))
    assert set(context.params["only"]) <= set(SELECTABLE)
    assert service["init"], "up is no init"
    # nobody listens to the outside without a password
    assert context.params["auth"] or context.params["host"] is None


def test_the_image_copies_what_is_there_and_runs_as_nobody_in_particular() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"composition", "model_zoo", "tasks", "flows", "constraints.txt"} <= set(sources)
    assert all((FOLDER.parent / source).exists() for source in sources)
    ignored = (FOLDER.parent / ".dockerignore").read_text().split()
    assert {word[1:] for word in ignored if word.startswith("!")} == set(sources), "all others stay outside"
    assert "USER detcompose" in lines
    assert 'ENTRYPOINT ["detcompose"]' in lines


@pytest.mark.skipif(sys.platform != "linux", reason="ldd and Debian's names of packages")
def test_the_image_has_the_system_libraries_that_opencv_asks_for() -> None:
    """A slim image lacks them, and the wheels do not bring them along."""
    package = importlib.util.find_spec("cv2")
    assert package
    assert package.origin
    (library,) = Path(package.origin).parent.glob("cv2*.so")
    needed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    packages = {"libGL.so": "libgl1", "libgthread-2.0.so": "libglib2.0-0"}
    installed = (FOLDER / "Dockerfile").read_text().split()
    assert {found for name, found in packages.items() if name in needed} <= set(installed)


def test_the_secrets_agree_and_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert team_secrets.write(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    password = (folder / "database-password").read_text().strip()
    for name in ("prefect-database", "mlflow-database"):
        assert f"//detcompose:{password}@database:5432/" in (folder / name).read_text()
    key = re.findall('secretKey": "(.*?)"', (folder / "objects.json").read_text())
    assert key
    assert f"aws_secret_access_key = {key[0]}" in (folder / "objects-login").read_text()
    Fernet((folder / "webhook-encryption-key").read_text().strip())
    assert not team_secrets.write(folder), "another password would lock the team out"
    assert (folder / "database-password").read_text().strip() == password
