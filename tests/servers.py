"""Real servers for tests, as processes of their own on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.2) -> float:
    """Waits, and returns how long it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{what}: not after {seconds} s")
        time.sleep(pause)
    return time.monotonic() - start


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def process(
    command: Sequence[str | Path], log: Path, health: str, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server while the block runs; it and its children are gone afterwards.

    Args:
        command: What to start.
        log: Where its output goes; shown when it does not start.
        health: URL that answers 200 once it is ready.
        environment: Added to ours.
    """
    with log.open("wb") as file:
        started = subprocess.Popen(
            [str(word) for word in command],
            cwd=log.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            wait_until(lambda: answers(health) or started.poll() is not None, START_SECONDS, health)
            assert started.poll() is None, log.read_text()
            yield
        finally:
            with_children = os.getpgid(started.pid) if started.poll() is None else None
            if with_children is not None:
                os.killpg(with_children, signal.SIGTERM)
                try:
                    started.wait(3)
                except subprocess.TimeoutExpired:
                    os.killpg(with_children, signal.SIGKILL)
                    started.wait(20)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """An MLflow server with a database and artifacts in a folder; yields its address."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", folder / "artifacts"),
    ]
    environment = {
        # what a relay on loopback needs; a test of the cache's minute would be a slow one
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with process(command, folder / "server.log", f"http://127.0.0.1:{port}/health", environment):
        yield f"http://127.0.0.1:{port}"
