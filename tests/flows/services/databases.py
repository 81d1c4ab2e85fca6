"""A real PostgreSQL of this machine's packages and a real S3 interface, both on the loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running PostgreSQL.

    Attributes:
        port: Its port.
        password: Of its superuser ``detcompose``.
        binaries: Folder of its programs.
    """

    port: int
    password: str
    binaries: Path

    def url(self, database: str, driver: str = "postgresql") -> str:
        return f"{driver}://detcompose:{self.password}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> str:
        """One of PostgreSQL's own programs, as its superuser."""
        environment = os.environ | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "detcompose",
            "PGPASSWORD": self.password,
        }
        command = [str(self.binaries / program), *arguments]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()


@contextmanager
def postgres(password: str) -> Iterator[Postgres]:
    """Starts a PostgreSQL with this password in a folder that is removed afterwards."""
    binaries = _binaries()
    # initdb and postgres refuse to be root
    user = _unprivileged() if os.getuid() == 0 else None
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="detcompose-pg-"))
    (folder / "password").write_text(password)
    if user:
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    data, port = folder / "data", _free_port()
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "detcompose", "--auth=scram-sha-256"]
    initdb += [f"--pwfile={folder / 'password'}", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_user)  # type: ignore[call-overload]
    options = ["-D", str(data), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen(  # type: ignore[call-overload]
        [str(binaries / "postgres"), *options, "-c", "fsync=off"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **as_user,
    )
    found = Postgres(port, password, binaries)
    try:
        _wait(found)
        yield found
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    folders = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("no PostgreSQL here (no initdb on the path or in /usr/lib/postgresql)")


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


def _wait(server: Postgres) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            server.run("psql", "-d", "postgres", "-c", "select 1")
        except subprocess.CalledProcessError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("PostgreSQL did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
