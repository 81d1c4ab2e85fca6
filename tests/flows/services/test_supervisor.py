"""The supervisor on small real processes: order, restarts, giving up, leaving nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from composition.errors import UserError
from flows.services import processes
from flows.services.catalog import Catalog, Service
from flows.services.place import LOG_LIMIT, Place
from flows.services.supervisor import Supervisor, sweep
from tasks.home import Home
from tests.flows.services.conftest import wait_for

LASTS = "import time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(Home(tmp_path / "home"))
    made.make()
    yield made
    processes.send([found.pid for found in processes.find(made.identity)], signal.SIGKILL)


def service(
    name: str, code: str = LASTS, healthy: Callable[[float], bool] = lambda _: True, **more: bool
) -> Service:
    return Service(name, (sys.executable, "-c", code), os.environ, healthy, grace=5, **more)


class Run:
    """A supervisor in a thread of its own, and what it has reported."""

    def __init__(self, place: Place, *services: Service, timeout: float = 120) -> None:
        self.place = place
        self.reports: list[tuple[str, str]] = []
        self.ready = threading.Event()
        self.error: UserError | None = None
        self._stop = threading.Event()
        self.supervisor = Supervisor(
            place, Catalog(services, {}), lambda name, phase, _: self.reports.append((name, phase))
        )
        self.adopted = self.supervisor.adopt()
        self._thread = threading.Thread(target=self._run, args=[timeout], daemon=True)
        self._thread.start()

    def _run(self, timeout: float) -> None:
        try:
            self.supervisor.run(self._stop, timeout, self.ready.set)
        except UserError as error:
            self.error = error

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive()

    def pid(self, name: str) -> int:
        return int(self.place.read("state")["services"][name]["pid"])


def test_a_crashed_service_comes_back_and_the_others_stay(place: Place) -> None:
    run = Run(place, service("one"), service("two"), service("setup", "print('set up')", once=True))
    assert run.ready.wait(120)
    assert ("setup", "done") in run.reports
    other, first = run.pid("two"), run.pid("one")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: run.reports.count(("one", "healthy")) == 2)
    state = place.read("state")["services"]
    assert (state["one"]["restarts"], state["two"]["restarts"]) == (1, 0)
    assert run.pid("one") != first
    assert run.pid("two") == other
    run.stop()
    stopped = [name for name, phase in run.reports if phase == "stopped"]
    assert stopped == ["setup", "two", "one"], "servers, which come first, go last"
    assert processes.find(place.identity) == []
    assert place.read("state") == {}


def test_a_service_that_ends_at_once_ends_all_and_shows_its_words(place: Place) -> None:
    broken = service("broken", "print('no such table'); raise SystemExit(3)", healthy=lambda _: False)
    run = Run(place, service("one"), broken)
    run.join()
    assert run.error
    assert "broken ended with exit code 3 instead of starting" in run.error.problem
    assert "  | no such table" in run.error.problem
    assert str(place.log_file("broken")) in run.error.way_out
    assert processes.find(place.identity) == []


def test_a_service_that_is_never_well_is_late(place: Place) -> None:
    run = Run(place, service("one"), service("sick", healthy=lambda _: False), timeout=2)
    run.join()
    assert run.error
    assert "not well after 2 s: sick" in run.error.problem
    assert "--timeout" in run.error.way_out
    assert processes.find(place.identity) == []


def test_what_is_left_is_taken_over_unless_it_has_changed(place: Place) -> None:
    mark = f"{place.identity}:"
    children = [
        processes.start(service(name).command, os.environ, mark + name, place.root, place.new_log(name))
        for name in ("same", "changed", "gone")
    ]
    wait_for(lambda: len(processes.find(place.identity)) == 3)
    same, changed = service("same"), service("changed", LASTS + "  # another version")
    before = {
        name: {"pid": child.pid, "since": 1.0, "digest": service(name).digest}
        for name, child in zip(("same", "changed", "gone"), children, strict=True)
    }
    place.write("state", {"services": before})
    reaper = threading.Thread(target=lambda: [child.wait() for child in children[1:]])
    reaper.start()
    run = Run(place, same, changed)
    assert run.adopted == ["same"]
    assert run.ready.wait(120)
    assert run.pid("same") == children[0].pid
    assert run.pid("changed") != children[1].pid
    assert sorted(found.service for found in processes.find(place.identity)) == ["changed", "same"]
    run.stop()
    reaper.join()
    children[0].wait()
    assert processes.find(place.identity) == []


def test_a_long_log_is_put_aside(place: Place) -> None:
    log = place.new_log("one")
    with log.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)
    assert not place.new_log("one").exists()
    assert log.with_suffix(".log.1").stat().st_size == LOG_LIMIT + 1


def test_nothing_to_sweep(place: Place) -> None:
    assert sweep(place, {"one"}) == 0
