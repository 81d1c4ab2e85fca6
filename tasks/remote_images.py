"""Images in an object store, at any URL that fsspec knows, brought to this machine once.

A recipe's ``s3://bucket/folder`` is listed recursively. Each object is fetched
into a content-addressed cache below ``DETCOMPOSE_HOME`` and appears in a folder
of links laid out like the store; everything else works on that folder. What the
store says has not changed (size, and date or ETag) is not fetched again, so a
run that was cut off goes on where it was.

``s3`` is read by pyarrow, which is here anyway: s3fs cannot be installed beside
the pinned botocore. Credentials come from the environment alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSelector, S3FileSystem, resolve_s3_region

from composition.errors import UserError
from model_zoo.images import MAX_BYTES, SUFFIXES
from tasks.progress import track
from tasks.store import digest_of, disk_errors, write_atomic

T = TypeVar("T")

CACHE_VERSION = 1
CONNECTIONS = 16
"""Objects fetched at the same time."""
ATTEMPTS = 4
PAUSE = 0.5
"""Seconds before the second attempt; doubled before each further one, with some chance in it."""
MAX_FAILED = 0.05
"""If a larger share of the objects cannot be fetched, something is wrong with the store and not with them."""
STALE_SECONDS = 3600.0
"""A download of which no byte has come for so long is nobody's any more."""
_CHUNK = 1 << 20
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)
_VALIDATORS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


class BadObjectError(Exception):
    """The object cannot be used; the message is the reason for the quarantine."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Remote images on this machine.

    Attributes:
        root: Folder of links to the images.
        paths: Sorted paths of all objects, those that could not be used included.
        bad: Path of an object that could not be used to the reason.
    """

    root: Path
    paths: tuple[str, ...]
    bad: Mapping[str, str]


def url_of(source: Path) -> str | None:
    """The URL that was given as a path, in which ``//`` has become ``/``; None for a path of this machine."""
    match = _URL.fullmatch(str(source))
    if match is None:
        return None
    scheme = match[1].lower()
    return f"{scheme}:///{match[2]}" if scheme in ("file", "local") else f"{scheme}://{match[2]}"


def fetch_images(url: str, cache: Path, limit: int | None = None) -> Fetched:
    """Lists the images below a URL and fetches those that are not in the cache.

    Args:
        url: A folder in a store.
        cache: Folder of the cache.
        limit: Only the first so many of the sorted paths.

    Raises:
        UserError: The store cannot be read, holds no images there, or fails for more than `MAX_FAILED` of
            them. What was fetched stays.
    """
    store, base = _open(url)
    found = _list(store, base, url)
    paths = sorted(found)[:limit]
    if not paths:
        raise UserError(f"images: {url} holds no images", f"Image files end in {', '.join(SUFFIXES)}.")
    keys = {path: _key(url, path, found[path]) for path in paths}
    root = cache / "sets" / digest_of("remote-set", url, [(path, keys[path]) for path in paths])
    bad: dict[str, str] = {}
    failed: dict[str, str] = {}

    def work(path: str) -> None:
        try:
            _bring(store, found[path], keys[path], cache, root / path)
        except BadObjectError as error:
            bad[path] = str(error)
        except _PASSING as error:
            if getattr(error, "errno", None) in _OURS:
                raise
            failed[path] = f"cannot be fetched: {error}"

    with disk_errors(cache):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in track(pool.map(work, paths), "fetching images", len(paths)):
                pass
    if len(failed) > MAX_FAILED * len(paths):
        path, reason = next(iter(failed.items()))
        raise UserError(
            f"images: {len(failed)} of {len(paths)} objects below {url} failed, the first, {path}: {reason}",
            "Run again: what was fetched is kept.",
        )
    return Fetched(root, tuple(paths), bad | failed)


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise UserError(
            "images: the URL holds credentials, which would be shown and logged",
            "Take them out and set them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...).",
        )
    if scheme in ("s3", "s3a"):
        return ArrowFSWrapper(_s3(rest.partition("/")[0])), rest.rstrip("/")
    try:
        store, path = url_to_fs(url)
    except ValueError:
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise UserError(f"images: {scheme}:// is not known", f"Known: {known}.") from None
    except ImportError as error:
        raise UserError(f"images: {scheme}:// needs a package: {error}", "Install it.") from None
    return store, path.rstrip("/")


def _s3(bucket: str) -> Any:
    """Amazon's store or, with ``AWS_ENDPOINT_URL``, another one."""
    anonymous = os.environ.get("DETCOMPOSE_S3_ANONYMOUS") == "1"
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if address:
        scheme, _, host = address.rpartition("://")
        return S3FileSystem(anonymous=anonymous, scheme=scheme or "https", endpoint_override=host.rstrip("/"))
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        try:
            region = resolve_s3_region(bucket)
        except OSError as error:
            raise UserError(
                f"images: the region of bucket {bucket} cannot be found: {error}",
                "Set AWS_REGION, and AWS_ENDPOINT_URL for a store that is not Amazon's.",
            ) from None
    return S3FileSystem(anonymous=anonymous, region=region)


def _list(store: Any, base: str, url: str) -> dict[str, dict[str, Any]]:
    """Relative path of every image to what the store says about it."""
    way_out = "Check the address, and the credentials in the environment."
    try:
        entries = _patiently(partial(_entries, store, base))
    except BadObjectError as error:
        raise UserError(f"images: {url} {error}", way_out) from None
    except _PASSING as error:
        raise UserError(f"images: {url} cannot be listed: {error}", way_out) from None
    found = {}
    for name, facts in entries.items():
        relative = PurePosixPath(str(name).removeprefix(base).lstrip("/"))
        inside = relative.parts and ".." not in relative.parts and "\0" not in str(relative)
        if inside and relative.suffix.lower() in SUFFIXES:
            found[str(relative)] = {**facts, "name": name}
    return found


def _entries(store: Any, base: str) -> dict[str, dict[str, Any]]:
    """What lies below a folder, by name."""
    if isinstance(store, ArrowFSWrapper):
        # find() of the wrapper asks folder by folder, and takes an error for an empty folder
        below = store.fs.get_file_info(FileSelector(base, recursive=True))
        return {info.path: {"size": info.size, "mtime": info.mtime_ns} for info in below if info.is_file}
    entries: dict[str, dict[str, Any]] = store.find(base, detail=True)
    return entries


def _key(url: str, path: str, facts: Mapping[str, Any]) -> str:
    """What an object is known by as long as the store says that it has not changed."""
    version = [str(facts[name]) for name in _VALIDATORS if facts.get(name)]
    # a store that says nothing of the kind is asked every time
    return digest_of("remote", CACHE_VERSION, url, path, facts.get("size"), version or uuid4().hex)


def _bring(store: Any, facts: Mapping[str, Any], key: str, cache: Path, link: Path) -> None:
    """Makes a link to an object, which is fetched if it is not in the cache."""
    note = cache / "seen" / key[:2] / key
    digest = note.read_text() if note.is_file() else ""
    if not digest or not _object(cache, digest).is_file():
        size = facts.get("size")
        if isinstance(size, int) and size > MAX_BYTES:
            raise BadObjectError(f"the object has {size:,} bytes; the limit is {MAX_BYTES:,}")
        digest = _patiently(partial(_download, store, facts, cache))
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, digest.encode())
    target = _object(cache, digest)
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{uuid4().hex}.link")
    temporary.symlink_to(target)
    temporary.replace(link)


def _object(cache: Path, digest: str) -> Path:
    return cache / "objects" / digest[:2] / digest


def _download(store: Any, facts: Mapping[str, Any], cache: Path) -> str:
    """Writes an object into the cache; its sha256."""
    hashed, length = hashlib.sha256(), 0
    partial_file = cache / "objects" / f".{os.getpid()}.{uuid4().hex}.partial"
    partial_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with store.open(facts["name"], "rb") as source, partial_file.open("wb") as file:
            while chunk := source.read(_CHUNK):
                length += len(chunk)
                if length > MAX_BYTES:
                    raise BadObjectError(f"the object has more than {MAX_BYTES:,} bytes")
                hashed.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        size = facts.get("size")
        if isinstance(size, int) and length != size:
            raise ConnectionError(f"{length:,} of {size:,} bytes came")
        target = _object(cache, hashed.hexdigest())
        target.parent.mkdir(parents=True, exist_ok=True)
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
    return hashed.hexdigest()


def _sweep(cache: Path) -> None:
    """Removes what killed downloads left behind: nothing was written to it for long."""
    for leftover in (cache / "objects").glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                leftover.unlink()


# stores report a lost connection as OSError, and as errors of their client's that are nothing in common
_PASSING = (OSError, TimeoutError, EOFError, RuntimeError)
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only the person at this machine can mend."""


def _patiently(work: Callable[[], T]) -> T:
    """Tries again, with growing pauses, what may succeed later.

    Raises:
        BadObjectError: Trying again is of no use.
        OSError: The last attempt's error.
    """
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except FileNotFoundError:
            raise BadObjectError("does not exist in the store") from None
        except _PASSING as error:
            if isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error):
                raise BadObjectError("may not be read with the credentials of the environment") from None
            if getattr(error, "errno", None) in _OURS or attempt == ATTEMPTS - 1:
                raise
        time.sleep(PAUSE * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
    raise AssertionError("the last attempt returns or raises")
