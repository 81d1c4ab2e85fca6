"""Keeps the services running: starts them together, watches, restarts, stops in order."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from composition.errors import UserError
from flows.services import processes
from flows.services.catalog import Catalog, Service
from flows.services.place import Place

LOOK_SECONDS = 0.5
"""Pause between two looks at the services while they start."""
WATCH_SECONDS = 15.0
"""Pause between two questions whether a running service is well."""
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0
"""Seconds before a crashed service is started again; doubled each time."""
STEADY_SECONDS = 60.0
"""A service that ran so long begins anew with the short pause."""
TAIL_LINES = 12

STARTING, HEALTHY, SILENT, WAITING, DONE = "starting", "healthy", "not answering", "restarting", "done"

Report = Callable[[str, str, float], None]
"""Told about every change: service, what it is now, seconds since its start."""


@dataclass(slots=True)
class _Running:
    """What is known about one service.

    Attributes:
        service: What it is.
        pid: Its leading process; 0 when there is none.
        phase: One of the words above.
        since: Start, seconds since the epoch.
        restarts: How often it was started again.
        child: The process, unless it was started by an earlier supervisor.
        asked: When it was last asked whether it is well, monotonic.
        again: When it may start again, monotonic.
    """

    service: Service
    pid: int = 0
    phase: str = STARTING
    since: float = 0.0
    restarts: int = 0
    child: subprocess.Popen[bytes] | None = None
    asked: float = 0.0
    again: float = 0.0
    backoff: float = FIRST_BACKOFF

    def exit_code(self) -> int | None:
        """None while it runs; -1 where an adopted process is gone."""
        if self.child is not None:
            return self.child.poll()
        return None if processes.is_alive(self.pid) else -1


class Supervisor:
    """Runs the services of a catalog; the caller holds the lock of the place.

    Args:
        place: Where state and logs are.
        catalog: What to run.
        report: Is told about every change.
    """

    def __init__(self, place: Place, catalog: Catalog, report: Report) -> None:
        self._place = place
        self._catalog = catalog
        self._report = report
        self._running = {service.name: _Running(service) for service in catalog.services}
        self._healthy_once = False

    def adopt(self) -> list[str]:
        """Takes over services that an earlier supervisor left running, and ends what cannot be used.

        Returns:
            Names of the services that go on.
        """
        before: Mapping[str, Any] = self._place.read("state").get("services", {})
        marked = processes.find(self._place.identity)
        for name, running in self._running.items():
            last, service = before.get(name, {}), running.service
            alive = any(found.pid == last.get("pid") and found.service == name for found in marked)
            since = float(last.get("since", 0))
            if alive and last.get("digest") == service.digest and not service.once and service.healthy(since):
                running.pid, running.phase, running.since = last["pid"], HEALTHY, since
        adopted = [name for name, running in self._running.items() if running.pid]
        sweep(self._place, {found.service for found in marked} - set(adopted), grace=30)
        return adopted

    def run(self, stop: threading.Event, timeout: float, ready: Callable[[], None]) -> None:
        """Starts what does not run yet and watches until asked to stop; then ends everything.

        Args:
            stop: Set by whoever wants an end.
            timeout: Seconds within which everything must be well for the first time.
            ready: Called once, when it is.

        Raises:
            UserError: A service did not come up; the others have been stopped.
        """
        deadline = time.monotonic() + timeout
        try:
            for running in self._running.values():
                if not running.pid:
                    self._start(running)
            self._save()
            while not stop.is_set():
                for running in self._running.values():
                    self._look(running)
                if not self._healthy_once:
                    if all(running.phase in (HEALTHY, DONE) for running in self._running.values()):
                        self._healthy_once = True
                        ready()
                    elif time.monotonic() > deadline:
                        raise self._late(timeout)
                stop.wait(LOOK_SECONDS)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends all services, those first that need the others."""
        # the servers come first in the catalog: what a run has to say at its end, they still hear
        for running in reversed(self._running.values()):
            began = time.monotonic()
            self._end(running)
            self._report(running.service.name, "stopped", time.monotonic() - began)
        self._place.write("state", {})

    def _start(self, running: _Running) -> None:
        service = running.service
        running.since = time.time()
        running.child = processes.start(
            service.command,
            service.environment,
            f"{self._place.identity}:{service.name}",
            service.folder or self._place.root,
            self._place.new_log(service.name),
            service.private,
        )
        running.pid = running.child.pid
        self._turn(running, STARTING)

    def _look(self, running: _Running) -> None:
        now = time.monotonic()
        if running.phase == DONE:
            return
        if running.phase == WAITING:
            if now >= running.again:
                self._start(running)
                self._save()
            return
        code = running.exit_code()
        if code is not None:
            self._ended(running, code)
            return
        pause = LOOK_SECONDS if running.phase == STARTING else WATCH_SECONDS
        if running.service.once or now - running.asked < pause:
            return
        well = running.service.healthy(running.since)
        running.asked = time.monotonic()
        if well and running.phase != HEALTHY:
            self._turn(running, HEALTHY)
        elif not well and running.phase == HEALTHY:
            self._turn(running, SILENT)

    def _ended(self, running: _Running, code: int) -> None:
        service = running.service
        if service.once and code == 0:
            self._turn(running, DONE)
            return
        if not self._healthy_once and running.child is not None:
            raise UserError(
                f"{service.name} ended with exit code {code} instead of starting\n{self._tail(service.name)}",
                f"Its log is {self._place.log_file(service.name)}.",
            )
        # its children go with it: a flow run that nobody watches would run beside its successor
        sweep(self._place, {service.name})
        if time.time() - running.since > STEADY_SECONDS:
            running.backoff = FIRST_BACKOFF
        running.again = time.monotonic() + running.backoff
        running.backoff = min(2 * running.backoff, LAST_BACKOFF)
        running.restarts += 1
        running.pid, running.child = 0, None
        self._turn(running, WAITING)

    def _end(self, running: _Running) -> None:
        def members() -> list[int]:
            if running.child is not None:
                running.child.poll()  # collects it, or it would stay in the list as a zombie
            return [found.pid for found in processes.find(self._place.identity, running.service.name)]

        first = [running.pid] if running.pid and running.exit_code() is None else members()
        processes.end(members, first, running.service.grace)
        if running.child is not None:
            running.child.wait()

    def _turn(self, running: _Running, phase: str) -> None:
        running.phase = phase
        self._report(running.service.name, phase, time.time() - running.since)
        self._save()

    def _save(self) -> None:
        self._place.write(
            "state",
            {
                "written_by": os.getpid(),
                "exports": self._catalog.exports,
                "services": {
                    name: {
                        "phase": running.phase,
                        "pid": running.pid,
                        "url": running.service.url,
                        "log": str(self._place.log_file(name)),
                        "restarts": running.restarts,
                        "since": running.since,
                        "digest": running.service.digest,
                    }
                    for name, running in self._running.items()
                },
            },
        )

    def _late(self, timeout: float) -> UserError:
        late = [name for name, running in self._running.items() if running.phase not in (HEALTHY, DONE)]
        return UserError(
            f"not well after {timeout:.0f} s: {', '.join(late)}\n{self._tail(late[0])}",
            f"Look into {self._place.log_file(late[0])}; on a busy machine give it more time with --timeout.",
        )

    def _tail(self, name: str) -> str:
        try:
            lines = self._place.log_file(name).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:])


def sweep(place: Place, services: set[str], grace: float = 10.0) -> int:
    """Ends all processes of some services of a home, whoever started them.

    Args:
        place: The home's place.
        services: Names of the services.
        grace: Seconds until they are killed.

    Returns:
        How many there were.
    """

    def members() -> list[int]:
        return [found.pid for found in processes.find(place.identity) if found.service in services]

    left = members()
    if left:
        processes.end(members, left, grace)
    return len(left)
