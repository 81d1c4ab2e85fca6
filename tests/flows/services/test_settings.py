"""What `up` is asked for: kept for the next start, refused when it cannot be or would be unsafe."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composition.errors import UserError
from flows.services.place import Place
from flows.services.settings import Databases, Settings, check_free, choose, read_databases, save
from tasks.home import Home

NONE = Databases(None, None, None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(Home(tmp_path / "home"))
    place.make()
    return place


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_what_was_asked_for_holds_at_the_next_start(place: Place) -> None:
    first = choose(place, {"prefect_port": 0, "mlflow_port": 5123, "auth": True, "host": None}, NONE)
    assert first.prefect_port > 1023
    save(place, first, NONE)
    assert choose(place, {"prefect_port": None, "auth": None}, NONE) == first
    assert choose(place, {"auth": False}, NONE).auth is False
    assert choose(place, {"only": ["mlflow"]}, NONE).only == ("mlflow",)
    assert choose(place, {}, NONE).only == Settings().only, "a choice of services is for one start"


def test_damaged_settings_are_the_defaults(place: Place) -> None:
    (place.root / "settings.json").write_text("{")
    assert choose(place, {}, NONE) == Settings()


@pytest.mark.parametrize(
    ("asked", "message", "way_out"),
    [
        ({"host": "0.0.0.0"}, "would let everybody", "--auth"),
        ({"host": "192.168.0.7"}, "would let everybody", "--auth"),
        ({"prefect_port": 70000}, "--prefect-port 70000 is no port", "between"),
        ({"prefect_port": 5000}, "5000 is given twice", "its own"),
        ({"only": ["redis"]}, "--only redis: there is no such service", "prefect, mlflow, worker, relay"),
        ({"only": ["worker"]}, "needs PREFECT_API_URL and MLFLOW_TRACKING_URI", "status --env"),
    ],
)
def test_what_cannot_be(
    place: Place, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], message: str, way_out: str
) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=message) as caught:
        choose(place, asked, NONE)
    assert way_out in caught.value.way_out


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_the_loopback_needs_no_password(place: Place, host: str) -> None:
    assert choose(place, {"host": host}, NONE).host == host
    assert choose(place, {"host": "0.0.0.0", "auth": True}, NONE).client_host == "127.0.0.1"


def test_a_port_in_use_names_the_way_out(taken: int) -> None:
    settings = Settings(prefect_port=taken)
    with pytest.raises(UserError, match=f"port {taken} .* is in use") as caught:
        check_free(settings, ["prefect"])
    assert "--prefect-port" in caught.value.way_out
    check_free(settings, ["mlflow"])
    with pytest.raises(UserError, match="no address of this machine"):
        check_free(Settings(host="nowhere.invalid"), ["prefect"])


def test_databases_come_from_the_environment_and_are_not_forgotten(place: Place, tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text("postgresql://me:secret@db/mlflow\n")
    given = read_databases(
        {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:secret@db/prefect",
            "MLFLOW_BACKEND_STORE_URI_FILE": str(url),
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/artifacts",
        }
    )
    assert given.kinds() == {"prefect": "postgresql", "mlflow": "postgresql", "artifacts": "s3"}
    assert given.mlflow
    assert given.mlflow.value == "postgresql+psycopg://me:secret@db/mlflow", "the driver that is installed"
    save(place, choose(place, {}, given), given)
    assert "secret" not in (place.root / "settings.json").read_text()
    assert "secret" not in repr(given)
    with pytest.raises(UserError, match="the last start used postgresql") as caught:
        choose(place, {}, NONE)
    assert "settings.json" in caught.value.way_out


@pytest.mark.parametrize(
    ("variable", "url", "way_out"),
    [
        (
            "PREFECT_SERVER_DATABASE_CONNECTION_URL",
            "postgresql+psycopg2://me:hunter2@db/prefect",
            "postgresql://",
        ),
        ("MLFLOW_BACKEND_STORE_URI", "mysql://me:hunter2@db/mlflow", "postgresql://"),
        ("MLFLOW_BACKEND_STORE_URI", "/me/hunter2", "postgresql://"),
    ],
)
def test_other_databases_are_refused_without_saying_the_password(
    variable: str, url: str, way_out: str
) -> None:
    with pytest.raises(UserError, match=variable) as caught:
        read_databases({variable: url})
    assert way_out in caught.value.way_out
    assert "hunter2" not in str(caught.value)


def test_only_one_holds_the_lock(place: Place) -> None:
    assert place.supervisor() is None
    with place.locked() as ours:
        assert ours
        assert place.supervisor() == os.getpid()
        with place.locked(patience=0.1) as second:
            assert not second
    assert place.supervisor() is None
