"""Prefect's temporary server is there in time, and never longer than whoever needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.services import processes
from flows.services.temporary import start_temporary_server
from tests.flows.conftest import ROOT
from tests.servers import wait_until

SCRIPT = """
import os, sys
from flows.environment import make_home
from flows.services.temporary import start_temporary_server
make_home()
ready = start_temporary_server()
from prefect import flow
from tasks.home import TEMPORARY_SERVER
from tasks.shown import watched

@flow
def told() -> bool:
    return watched()

ready()
print(told(), os.environ[TEMPORARY_SERVER], flush=True)
sys.stdin.read()
"""


def start(home: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=environment | {"DETCOMPOSE_HOME": str(home), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_ends_with_its_user_even_a_killed_one(tmp_path: Path) -> None:
    for killed in (False, True):
        with start(tmp_path / "home") as user:
            assert user.stdout
            assert user.stdin
            watched, pid = user.stdout.readline().split()
            assert watched == "False", "nobody can look at a server that ends with the run"
            assert processes.is_alive(int(pid))
            if killed:
                user.kill()
            else:
                user.stdin.close()
                assert user.wait(120) == 0
                assert user.stderr
                assert user.stderr.read() == "", "logs and events were sent while it was there"
            wait_until(lambda number=pid: not processes.is_alive(int(number)), 60, "the server's end")


def test_there_is_none_beside_a_server_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    start_temporary_server()()
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:1/api"
    monkeypatch.delenv("PREFECT_API_URL")
    (tmp_path / "profiles.toml").write_text('[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n')
    start_temporary_server()()
    assert "PREFECT_API_URL" not in os.environ
