from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition import label_space as spaces
from composition.errors import UserError
from model_zoo.images import read_rgb
from tasks.image_index import (
    build_index,
    content_digest,
    find_index,
    index_parts,
    iter_index,
    list_images,
    load_index,
    load_quarantine,
)
from tasks.store import Store
from tests.tasks.pools import make_pool


def _png(path: Path, width: int = 8, height: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _huge_header(path: Path) -> None:
    """A PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels))


def test_ids_follow_the_sorted_paths_and_survive_a_repair(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    for name in ("b.png", "sub/a.png", "c.png"):
        _png(pool / name)
    (pool / "a.jpg").write_bytes(b"")
    store = Store(tmp_path / "store")
    index = build_index(store, list_images(pool))
    assert [(r.image_id, r.path) for r in load_index(index)] == [(1, "b.png"), (2, "c.png"), (3, "sub/a.png")]
    assert load_quarantine(index)[0]["image_id"] == 0

    Image.new("RGB", (4, 4)).save(pool / "a.jpg")
    repaired = build_index(store, list_images(pool))
    assert [(r.image_id, r.path) for r in load_index(repaired)][:2] == [(0, "a.jpg"), (1, "b.png")]


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    """What is made under the digest of a plan is made of the images of that plan."""
    _png(tmp_path / "pool" / "a.png")
    store = Store(tmp_path / "store")
    listing = list_images(tmp_path / "pool")
    content = content_digest(listing)
    _png(tmp_path / "pool" / "a.png", width=9)
    with pytest.raises(UserError, match="have changed while they were read"):
        build_index(store, listing, content)
    assert store.find("image-index", content) is None
    index = build_index(store, listing)
    assert find_index(store, listing, content_digest(listing)) == index


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero.jpg", "0 bytes"),
        ("noise.jpg", "not a readable image"),
        ("truncated.jpg", "damaged"),
        ("huge.png", "claims"),
        ("float.tiff", "floating-point"),
        ("dangling.png", "cannot be read"),
    ],
)
def test_bad_images_are_quarantined_with_a_reason(tmp_path: Path, name: str, reason: str) -> None:
    pool = tmp_path / "pool"
    _png(pool / "good.png")
    bad = pool / name
    if name == "zero.jpg":
        bad.write_bytes(b"")
    elif name == "noise.jpg":
        bad.write_bytes(b"this is no image" * 10)
    elif name == "truncated.jpg":
        Image.effect_noise((200, 200), 50).save(bad)
        bad.write_bytes(bad.read_bytes()[:2000])
    elif name == "huge.png":
        _huge_header(bad)
    elif name == "float.tiff":
        Image.fromarray(np.ones((4, 4), np.float32)).save(bad)
    else:
        bad.symlink_to(pool / "gone.png")
    listing = list_images(pool)
    if name == "dangling.png":
        # a folder lists only files that are there; a COCO file may name others
        coco = tmp_path / "coco.json"
        coco.write_text(json.dumps({"images": [{"file_name": "good.png"}, {"file_name": name}]}))
        listing = list_images(coco, pool)
    index = build_index(Store(tmp_path / "store"), listing)
    assert index.counts == {"images": 1, "quarantined": 1}
    assert reason in load_quarantine(index)[0]["reason"]


def test_unusual_images_are_read_upright_as_8_bit_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((4, 6), 0x8040, np.uint16)).save(tmp_path / "grey16.png")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "one.png")
    Image.new("LA", (6, 4), (7, 0)).save(tmp_path / "alpha.png")
    rotated = Image.new("RGB", (6, 4), (9, 9, 9))
    exif = rotated.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    rotated.save(tmp_path / "rotated.jpg", exif=exif)

    assert read_rgb(tmp_path / "cmyk.jpg")[0, 0].tolist() == pytest.approx([254, 0, 0], abs=3)
    assert read_rgb(tmp_path / "grey16.png")[0, 0].tolist() == [0x80] * 3
    assert read_rgb(tmp_path / "one.png").tolist() == [[[1, 2, 3]]]
    assert read_rgb(tmp_path / "alpha.png")[0, 0].tolist() == [7, 7, 7]
    assert read_rgb(tmp_path / "rotated.jpg").shape == (6, 4, 3)
    index = build_index(Store(tmp_path / "store"), list_images(tmp_path))
    sizes = {record.path: (record.width, record.height) for record in load_index(index)}
    assert sizes["rotated.jpg"] == (4, 6)


def test_the_digest_follows_the_bytes_not_the_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        _png(folder / "a.png")
        _png(folder / "b.png", 9, 9)
    assert content_digest(list_images(one)) == content_digest(list_images(two))
    _png(two / "b.png", 9, 8)
    assert content_digest(list_images(one)) != content_digest(list_images(two))


def test_limit_takes_the_first_paths(tmp_path: Path) -> None:
    for name in ("c.png", "a.png", "b.png"):
        _png(tmp_path / name)
    assert list_images(tmp_path, limit=2).paths == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "not readable JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [{"id": 1}]}', r"images\[0\] has no 'file_name'"),
        ('{"images": []}', "holds no images"),
    ],
)
def test_bad_sources_are_errors(tmp_path: Path, content: str | None, message: str) -> None:
    source = tmp_path / "coco.json"
    if content is not None:
        source.write_text(content)
    with pytest.raises(UserError, match=message):
        list_images(source)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path)


def test_a_pool_without_one_good_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 images"):
        build_index(Store(tmp_path / "store"), list_images(tmp_path))


@pytest.mark.parametrize("images", [1, 1023, 1024, 2500])
def test_parts_of_an_index_are_read_where_they_lie(tmp_path: Path, images: int) -> None:
    space = spaces.build({"a": ("x",)})
    index = make_pool(Store(tmp_path / "store"), space, images, 5000, boxes=1).index
    whole = load_index(index)
    for size in (700, 1024, 5000):
        parts = index_parts(index, size)
        assert [len(part) for part in parts] == [len(list(part)) for part in parts]
        assert [record for part in parts for record in part] == whole
        assert parts[-1][-1] == whole[-1]
        assert parts[0][:2] == whole[:2]
    assert list(iter_index(index, first=images)) == []
