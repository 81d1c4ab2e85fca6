"""Where `detcompose up` keeps what it knows: state, settings, logs, and the lock that says it is alive."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.home import Home
from tasks.store import disk_errors, write_atomic

LOG_LIMIT = 16 * 2**20
"""Bytes after which a log file is put aside at the next start."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of the services below a home folder.

    Attributes:
        home: The home folder.
    """

    home: Home

    @property
    def root(self) -> Path:
        """``<home>/services``."""
        return self.home.root / "services"

    @property
    def identity(self) -> str:
        """Marks the processes of this home, also those that outlive their parent."""
        return hashlib.sha256(str(self.home.root).encode()).hexdigest()[:16]

    @property
    def worker_name(self) -> str:
        """Name of this home's worker, the same after every start; unique among the machines of a team."""
        return f"{socket.gethostname()}-{self.identity[:8]}"

    def make(self) -> None:
        """Makes the folder, closed to others: its files name ports, and logs may say more."""
        with disk_errors(self.root):
            (self.root / "logs").mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)

    def log_file(self, name: str) -> Path:
        """A service's log."""
        return self.root / "logs" / f"{name}.log"

    def new_log(self, name: str) -> Path:
        """The log of a service that is about to start; one that has grown too long is put aside."""
        path = self.log_file(name)
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        return path

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty when there is none or it is damaged."""
        try:
            value = json.loads((self.root / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file of the folder."""
        write_atomic(self.root / f"{name}.json", json.dumps(value, indent=2).encode() + b"\n")

    @contextmanager
    def locked(self, patience: float = 1.0) -> Iterator[bool]:
        """Holds the lock of the one process that keeps the services running.

        The kernel gives it back however that process ends, so no stale file
        can say that it is alive.

        Args:
            patience: Seconds to try: somebody may just be looking whether it is held.

        Yields:
            Whether the lock could be had.
        """
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience
        try:
            while not _take(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(0.05)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield True
        finally:
            os.close(descriptor)

    def supervisor(self) -> int | None:
        """Process id of the `detcompose up` of this home that is alive, None if there is none."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            if _take(descriptor, fcntl.LOCK_SH):
                return None
            return int(os.pread(descriptor, 32, 0) or 0) or None
        finally:
            os.close(descriptor)

    @property
    def _lock(self) -> Path:
        return self.root / "lock"


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
