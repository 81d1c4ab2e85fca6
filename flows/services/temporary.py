"""Prefect's temporary server, started early: it comes up while its user is still importing and planning.

Without a server, Prefect starts one at the first call of a flow, and waits for
it: 12 s where its database is new. This is the same server in a process of its
own, begun before anything else; nothing in the user's process has to import it.
Ctrl-C does not reach it, so that a run can say how it ended, and it ends with
its user, even one that is killed (Linux).

    python -m flows.services.temporary PORT
"""

from __future__ import annotations

import atexit
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from composition.errors import UserError
from flows.services.settings import LOOPBACK, free_port
from tasks.home import TEMPORARY_SERVER

STOP_SECONDS = 15.0
"""A server that is migrating its database goes on until that is done."""
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl.h."""


def start_temporary_server() -> Callable[[], None]:
    """Starts a Prefect server that ends with this process, unless a server is named.

    To be called before Prefect is imported, which reads ``PREFECT_API_URL`` then.

    Returns:
        What waits until the server answers; to be called before the first flow.
    """
    if "prefect" in sys.modules or _server_is_named():
        return lambda: None
    port = free_port()
    # marks for the server, which itself is a client of nobody
    marks = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    command = [sys.executable, "-m", "flows.services.temporary", str(port)]
    process = subprocess.Popen(command, env=os.environ | marks, start_new_session=True)  # noqa: S603 (ours)
    # registered before Prefect's own, so called after them: they still have logs and events to send
    atexit.register(_stop, process)
    os.environ |= {"PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api", TEMPORARY_SERVER: str(process.pid)}
    return lambda: _wait(process, port)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _server_is_named() -> bool:
    """Whether Prefect would use a server: the environment names one, or a profile of Prefect's might."""
    profiles = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml"
    name = "PREFECT_API_URL"
    return bool(os.environ.get(name)) or (profiles.is_file() and name in profiles.read_text())


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    seconds = float(os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120"))
    deadline = time.monotonic() + seconds
    while not _answers(port):
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            how = f"has not come up within {seconds:.0f} s" if ended is None else f"ended with code {ended}"
            raise UserError(
                f"Prefect's temporary server {how}",
                "Its messages are above. On a slow machine start servers first: `detcompose up`.",
            )
        time.sleep(0.05)


def _answers(port: int) -> bool:
    # no proxy stands between us and ourselves
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_with_parent() -> None:
    parent = os.getppid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it could be tied to us
            sys.exit(1)


def main() -> None:
    """Serves Prefect's API on the port that is named on the command line."""
    _end_with_parent()
    import uvicorn

    app = "prefect.server.api.server:create_app"
    uvicorn.run(app, factory=True, host=LOOPBACK, port=int(sys.argv[1]), log_level="error", lifespan="on")


if __name__ == "__main__":
    main()
