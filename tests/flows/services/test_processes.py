"""Real processes: found by their mark whoever started them, ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.services import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="marks are read from /proc")

# a child in a session of its own, as Prefect's worker starts flow runs
FAMILY = """
import subprocess, sys, time
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
child = (deaf if "deaf" in sys.argv else "") + "import time; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""


class Family:
    """Starts a process and its child, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.identity = uuid.uuid4().hex[:16]
        self.log = folder / "log"
        self._folder = folder
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", FAMILY, *arguments]
        child = processes.start(command, os.environ, f"{self.identity}:family", self._folder, self.log)
        self._children.append(child)
        wait_for(lambda: len(self.members()) == 2)
        return child

    def members(self) -> list[int]:
        return [found.pid for found in processes.find(self.identity)]

    def close(self) -> None:
        processes.send(self.members(), signal.SIGKILL)
        for child in self._children:
            child.wait()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    made = Family(tmp_path)
    yield made
    made.close()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_children_outlive_their_parent_and_are_found(family: Family) -> None:
    parent = family.start()
    assert {found.service for found in processes.find(family.identity)} == {"family"}
    assert processes.find(family.identity, "another") == []
    parent.send_signal(signal.SIGKILL)
    wait_for(lambda: len(family.members()) == 1)
    assert not processes.is_alive(parent.pid), "a zombie is not alive"
    assert processes.is_alive(family.members()[0])


def test_all_are_ended_the_deaf_ones_by_force(family: Family) -> None:
    family.start("deaf")
    wait_for(lambda: "deaf" in family.log.read_text())
    assert not processes.end(family.members, family.members(), grace=0.5)
    assert family.members() == []


def test_those_who_listen_are_not_killed(family: Family) -> None:
    family.start()
    assert processes.end(family.members, family.members(), grace=60)


def test_a_process_does_not_find_itself(family: Family, tmp_path: Path) -> None:
    """A flow run that asks for the status of its home is no orphan."""
    code = f"from flows.services.processes import find; print([f.pid for f in find({family.identity!r})])"
    command = [sys.executable, "-c", code]
    child = processes.start(command, os.environ, f"{family.identity}:x", Path.cwd(), tmp_path / "own")
    assert child.wait(60) == 0
    assert (tmp_path / "own").read_text() == "[]\n"


def test_signals_to_the_dead_are_no_error() -> None:
    processes.send([2**22 - 1], signal.SIGTERM)
    assert not processes.is_alive(2**22 - 1)
