"""Images in real stores: an S3 server of moto's, fsspec's memory and file stores, and one that fails."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import boto3
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer
from PIL import Image

from composition.errors import UserError
from flows.recipe import load_recipe
from tasks import remote_images
from tasks.image_index import build_index, content_digest, list_images, load_index, load_quarantine
from tasks.remote_images import url_of
from tasks.store import Store


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield client
    for entry in client.list_objects_v2(Bucket="photos").get("Contents", []):
        client.delete_object(Bucket="photos", Key=entry["Key"])
    client.delete_bucket(Bucket="photos")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote_images, "PAUSE", 0.001)
    return tmp_path / "home"


def objects(home: Path) -> dict[str, int]:
    found = (home / "remote-images" / "objects").rglob("*")
    return {path.name: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_a_bucket_is_listed_recursively_and_fetched_once(bucket: Any, home: Path, tmp_path: Path) -> None:
    names = {"pool/a.png": 1, "pool/sub/b c#1.PNG": 2, "pool/sub/deep/ü.png": 3, "pool/again.png": 1}
    for name, seed in names.items():
        bucket.put_object(Bucket="photos", Key=name, Body=png(seed))
    bucket.put_object(Bucket="photos", Key="pool/notes.txt", Body=b"no image")
    bucket.put_object(Bucket="photos", Key="pool/broken.png", Body=b"no image either")
    bucket.put_object(Bucket="photos", Key="pools/other.png", Body=png(9))
    (tmp_path / "recipe.yaml").write_text("name: x\nteachers: [y]\nimages: {source: 's3://photos/pool'}\n")
    source = load_recipe(tmp_path / "recipe.yaml").images.source

    listing = list_images(source)
    assert listing.paths == ("a.png", "again.png", "broken.png", "sub/b c#1.PNG", "sub/deep/ü.png")
    index = build_index(Store(tmp_path / "store"), listing)
    assert [record.path for record in load_index(index)] == [p for p in listing.paths if p != "broken.png"]
    (bad,) = load_quarantine(index)
    assert (bad["path"], bad["reason"].split(" (")[0]) == ("broken.png", "not a readable image")
    kept = objects(home)
    assert len(kept) == 4, "equal content lies there once"

    again = list_images(source)
    assert (again.root, objects(home)) == (listing.root, kept), "nothing is fetched twice"
    assert list_images(source, limit=2).paths == ("a.png", "again.png")
    bucket.put_object(Bucket="photos", Key="pool/a.png", Body=png(7) + b" longer")
    changed = list_images(source)
    assert content_digest(changed) != content_digest(listing)
    assert set(kept) < set(objects(home))

    local = tmp_path / "local"
    for path in listing.paths:
        (local / path).parent.mkdir(parents=True, exist_ok=True)
        (local / path).write_bytes((listing.root / path).read_bytes())
    assert content_digest(list_images(local)) == content_digest(listing), (
        "the place is no part of the identity"
    )
    assert list_images(Path(f"file://{local}")).paths == listing.paths


def test_what_cannot_be_had_is_said(bucket: Any, home: Path) -> None:
    with pytest.raises(UserError, match="s3://photos/empty"):
        list_images(Path("s3://photos/empty"))
    with pytest.raises(UserError, match="s3://nobodys-bucket/x"):
        list_images(Path("s3://nobodys-bucket/x"))
    with pytest.raises(UserError, match="holds credentials") as caught:
        list_images(Path("s3://key:secret@photos/x"))
    assert "secret" not in caught.value.problem
    with pytest.raises(UserError, match="nonsense:// is not known"):
        list_images(Path("nonsense://photos/x"))


class Moody(MemoryFileSystem):
    """A memory store whose objects fail as their names say."""

    protocol = "moody"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    opened: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("moody://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            self.opened.append(path)
            tries = self.opened.count(path)
            if "gone" in path:
                raise FileNotFoundError(path)
            if "closed" in path:
                raise PermissionError(path)
            if "down" in path or ("slow" in path and tries < 3):
                raise ConnectionResetError("connection reset")
            if "cut" in path and tries == 1:
                return io.BytesIO(b"half")
        return super()._open(path, mode, **options)


@pytest.fixture
def moody(home: Path) -> Moody:
    fsspec.register_implementation("moody", Moody, clobber=True)
    Moody.store.clear()
    Moody.opened.clear()
    return Moody()


def test_objects_fail_one_by_one(moody: Moody, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["gone", "closed", "slow", "cut", "down", "large", *map(str, range(20))]
    for number, name in enumerate(names):
        moody.pipe(f"/pool/{name}.png", png(number) + b" " * (5000 if name == "large" else 0))
    monkeypatch.setattr(remote_images, "MAX_BYTES", 3000)
    listing = list_images(Path("moody://pool"))
    assert listing.bad == {
        "gone.png": "does not exist in the store",
        "closed.png": "may not be read with the credentials of the environment",
        "down.png": "cannot be fetched: connection reset",
        "large.png": f"the object has {5000 + len(png(5)):,} bytes; the limit is 3,000",
    }
    counted = {
        name: moody.opened.count(f"/pool/{name}.png") for name in ("gone", "closed", "slow", "cut", "down")
    }
    assert counted == {"gone": 1, "closed": 1, "slow": 3, "cut": 2, "down": remote_images.ATTEMPTS}
    index = build_index(Store(tmp_path / "store"), listing)
    assert index.counts == {"images": 22, "quarantined": 4}
    assert {row["path"]: row["reason"] for row in load_quarantine(index)} == listing.bad


def test_a_store_that_is_down_is_an_error_and_the_next_run_goes_on(moody: Moody, home: Path) -> None:
    for number in range(6):
        moody.pipe(f"/pool/{'down' if number == 3 else number}.png", png(number))
    with pytest.raises(UserError, match=r"1 of 6 objects .* failed, the first, down\.png"):
        list_images(Path("moody://pool"))
    fetched = set(objects(home))
    assert len(fetched) == 5
    moody.opened.clear()
    with pytest.raises(UserError):
        list_images(Path("moody://pool"))
    assert set(moody.opened) == {"/pool/down.png"}
    assert not list((home / "remote-images").rglob("*.partial"))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("file:///tmp/x", "file:///tmp/x"),
        ("memory://pool", "memory://pool"),
        ("/tmp/a:/b", None),
        ("images", None),
        ("c:/images", None),
        ("data.yaml#train", None),
    ],
)
def test_urls_survive_being_paths(text: str, url: str | None) -> None:
    assert url_of(Path(text)) == url


def test_what_killed_downloads_left_behind_is_removed(home: Path) -> None:
    folder = home / "remote-images" / "objects"
    folder.mkdir(parents=True)
    old, young = folder / ".1.a.partial", folder / ".2.b.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    stale = time.time() - 2 * remote_images.STALE_SECONDS
    os.utime(old, (stale, stale))
    fsspec.filesystem("memory").pipe("/leftovers/a.png", png(1))
    list_images(Path("memory://leftovers"))
    assert not old.exists()
    assert young.exists(), "somebody may be writing it"
