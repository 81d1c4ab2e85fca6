"""Starting, finding and ending processes, whole families of them.

Prefect's worker starts every flow run in a session of its own, and MLflow's
command starts the server as a child: neither a process id nor a process group
names all that belongs to a service. Each service therefore carries a mark in
its environment, which all of its descendants inherit and which outlives
whoever started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "DETCOMPOSE_SERVICE"
"""Environment variable that marks the processes of a service: ``<identity>:<name>``."""
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Found:
    """A running process of a service.

    Attributes:
        pid: Process id.
        service: Name of the service that it belongs to.
    """

    pid: int
    service: str


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    mark: str,
    folder: Path,
    log: Path,
    private: bool = False,
) -> subprocess.Popen[bytes]:
    """Starts a service in a session of its own, so that Ctrl-C reaches only us.

    Args:
        command: Program and arguments; never a secret, everybody can list them.
        environment: The whole environment.
        mark: ``<identity>:<name>``.
        folder: Working directory.
        log: Where its output goes, appended.
        private: Whether the files that it makes are closed to others.
    """
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 (our own command lines)
            list(command),
            env={**environment, MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077 if private else -1,
        )


def find(identity: str, service: str | None = None) -> list[Found]:
    """All living processes that carry a home's mark (Linux), parents before children.

    Args:
        identity: The home's.
        service: Only those of this service.
    """
    wanted = f"{MARK}={identity}:".encode()
    spared = _ancestry()
    found = []
    for entry in _PROC.glob("[0-9]*"):
        pid = int(entry.name)
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or somebody else's
        names = [value[len(wanted) :].decode() for value in variables if value.startswith(wanted)]
        if names and pid not in spared and (service is None or names[0] == service):
            found.append(Found(pid, names[0]))
    return sorted(found, key=lambda one: one.pid)


def _ancestry() -> set[int]:
    """This process and those above it: a flow run that asks for the status is no orphan of its own."""
    pids, pid = set(), os.getpid()
    while pid > 1 and pid not in pids:
        pids.add(pid)
        try:
            pid = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return pids


def is_alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        os.kill(pid, 0)
        state = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):
        return not _PROC.is_dir()  # gone between the two lines; elsewhere the signal must do
    return state not in "ZX"


def send(pids: Collection[int], number: signal.Signals) -> None:
    """Sends a signal to processes; those that are gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def end(members: Callable[[], Collection[int]], first: Collection[int], grace: float) -> bool:
    """Ends processes: asks first, then SIGKILL until none is left.

    Args:
        members: Those that are still alive; asked again, because they may have children meanwhile.
        first: Who is asked to stop (a leader tells its children itself).
        grace: Seconds until the rest is killed.

    Returns:
        Whether all went by themselves.
    """
    send(first, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while members():
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    else:
        return True
    while left := members():
        send(left, signal.SIGKILL)
        time.sleep(0.1)
    return False
