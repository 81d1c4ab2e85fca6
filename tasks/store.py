"""The store: a content-addressed workspace in which nothing exists by halves.

An artifact is a folder ``<root>/<kind>/<key>/`` whose ``manifest.json`` is
written last. Writers fill a staging folder beside it and rename it into place,
so a killed process leaves at most a staging folder, which the next writer of
that key removes. Whoever writes holds a lock, which the kernel gives back
however he ends: process ids say nothing between containers and machines. Keys
are digests of everything that decided the content.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from composition.errors import UserError
from model_zoo.bundle import canonical_json, sha256_of

log = logging.getLogger("detcompose")

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Artifact:
    """What tasks hand to each other: a pointer into the store, never the data.

    Attributes:
        kind: First folder level, e.g. ``detections``.
        uri: The artifact's folder.
        digest: Its key.
        counts: Small numbers about it, e.g. ``{"images": 421}``.
    """

    kind: str
    uri: str
    digest: str
    counts: Mapping[str, int]

    @property
    def folder(self) -> Path:
        """The artifact's folder as a path."""
        return Path(self.uri)

    def file(self, name: str) -> Path:
        """Path of one of its files."""
        return self.folder / name


def digest_of(*parts: Any) -> str:
    """sha256 (hex) of JSON values, the one way in which keys are made."""
    return hashlib.sha256(canonical_json(parts)).hexdigest()


class Draft:
    """An artifact that is being written; files go below `folder`."""

    def __init__(self, folder: Path, final: Path) -> None:
        self.folder = folder
        self.counts: dict[str, int] = {}
        self._final = final

    def file(self, name: str) -> Path:
        """Path for a file of the artifact."""
        return self.folder / name

    @property
    def artifact(self) -> Artifact:
        """The finished artifact; valid after the ``write`` block."""
        return Artifact(self._final.parent.name, str(self._final), self._final.name, self.counts)


class Store:
    """A folder of artifacts.

    Args:
        root: Where it lies; made when missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact if it exists whole (manifest present, all files of the right size)."""
        folder = self.root / kind / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            files = {name: int(entry["bytes"]) for name, entry in manifest["files"].items()}
            counts = dict(manifest["counts"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{folder / MANIFEST} is damaged", f"Delete the folder {folder}; it will be made again."
            ) from None
        for name, size in files.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(
                    f"{file} is missing or was changed",
                    f"Delete the folder {folder}; it will be made again.",
                )
        return Artifact(kind, str(folder), key, counts)

    @contextmanager
    def write(self, kind: str, key: str, inputs: Mapping[str, str]) -> Iterator[Draft]:
        """Writes an artifact: fill the draft's folder, leave the block, and it exists.

        Args:
            kind: Artifact kind.
            key: Its digest.
            inputs: Names and digests of what it was made from (lineage).

        Raises:
            UserError: The disk is full.
        """
        final = self.root / kind / key
        # two writers of one key have a folder each; the later one to finish yields
        with disk_errors(final), staged(final) as staging:
            draft = Draft(staging, final)
            yield draft
            self._seal(draft, kind, key, inputs)
            _rename(staging, final)

    @staticmethod
    def _seal(draft: Draft, kind: str, key: str, inputs: Mapping[str, str]) -> None:
        files = sorted(path for path in draft.folder.rglob("*") if path.is_file())
        manifest = {
            "kind": kind,
            "schema_version": SCHEMA_VERSION,
            "digest": key,
            "inputs": dict(inputs),
            "files": {
                path.relative_to(draft.folder).as_posix(): {
                    "sha256": sha256_of(path),
                    "bytes": path.stat().st_size,
                }
                for path in files
            },
            "counts": draft.counts,
            "tool_version": version("detcompose"),
            "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_atomic(draft.folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")

    @contextmanager
    def working(self, kind: str, key: str) -> Iterator[Path]:
        """A folder for unfinished work on a key (checkpoints), for one process or thread at a time.

        Whoever comes second waits, and had better look for the artifact then.
        The folder is kept for the next attempt, until the artifact exists.

        Args:
            kind: Kind of the artifact that is to be.
            key: Its digest.

        Raises:
            UserError: The folder cannot be made.
        """
        folder = self.root / "work" / f"{kind}-{key}"
        lock = FileLock(folder.with_suffix(".lock"))
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                log.info("waiting: another run works on %s %s", kind, key[:12])
                lock.acquire()
        try:
            with disk_errors(folder):
                folder.mkdir(exist_ok=True)
            yield folder
            if self.find(kind, key):
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it finds the artifact
        finally:
            lock.release()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns "disk full" and "read-only" into errors that name the place and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"no space left while writing {place}",
                "Free some space or set DETCOMPOSE_HOME to a larger disk, then run the same command again: "
                "it goes on where it stopped.",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"no permission to write {place}",
                "Set DETCOMPOSE_HOME to a folder that you can write to.",
            ) from error
        raise


def _rename(staging: Path, final: Path) -> None:
    try:
        staging.rename(final)
    except OSError as error:
        # ENOTEMPTY/EEXIST: another process finished the same key first; its content is ours
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not (final / MANIFEST).exists():
            shutil.rmtree(final)
            staging.rename(final)


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """A new folder beside another, to be filled and then renamed into its place.

    It is gone afterwards if it was not; and so are those that killed processes
    left behind for the same place.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in final.parent.glob(f".{escape(final.name)}.*.partial"):
        if (held := _lock(leftover)) is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(held)
    staging, held = _new_staging(final)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(held)


def _new_staging(final: Path) -> tuple[Path, int]:
    """The folder, and the descriptor that holds its lock."""
    while True:
        staging = final.with_name(f".{final.name}.{uuid4().hex}.partial")
        staging.mkdir()
        held = _lock(staging)
        # between the two lines somebody may have taken it for a leftover
        if held is not None and staging.is_dir():
            return staging, held


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None where another has it, or it is no folder of ours."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
