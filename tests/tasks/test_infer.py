"""Teachers go through the images together: decoded once, in order, each on its own when something fails."""

from __future__ import annotations

import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition import label_space as spaces
from composition.errors import UserError
from model_zoo.adapters import onnx
from tasks import pixels, unanswered
from tasks.home import Home
from tasks.image_index import ImageRecord, build_index, list_images, load_index
from tasks.infer import (
    GenerateSettings,
    load_all,
    load_images,
    missing_shards,
    run_inference,
    run_shard,
    run_teachers,
)
from tasks.pixels import batches
from tasks.store import Artifact, Store
from tasks.teachers import Teacher, add
from tasks.teams import called, forget_detectors, teams
from tests.model_zoo.adapters.networks import yolov8
from tests.tasks.pools import make_pool

IMAGES = 23
SETTINGS = GenerateSettings(shard_size=10, score_floor=0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        height, width = 20 + 3 * number, 60 - number
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        picture[: height // 2] = 10 * number
        Image.fromarray(picture).save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def index(store: Store, folder: Path) -> Artifact:
    return build_index(store, list_images(folder))


@pytest.fixture
def teachers(tmp_path: Path) -> list[Teacher]:
    """Three networks with boxes of their own, whose scores follow the brightness of the image."""
    (tmp_path / "two.names").write_text("ant\nbee\n")
    home = Home(tmp_path / "home")
    rows = {
        "one": (20, 20, 10, 10, 0, 0.9),
        "two": (32, 32, 20, 30, 1, 0.8),
        "three": (40, 30, 8, 16, 0, 0.7),
    }
    return [
        add(home, yolov8(tmp_path / f"{name}.onnx", [row], 2), name, classes=tmp_path / "two.names")
        for name, row in rows.items()
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is decoded."""
    counts: Counter[str] = Counter()
    read, lock = pixels.read_rgb, threading.Lock()

    def counting(path: Path) -> np.ndarray:
        with lock:
            counts[path.name] += 1
        return read(path)

    monkeypatch.setattr(pixels, "read_rgb", counting)
    return counts


def contents(shards: dict[str, list[Artifact]]) -> dict[str, list[bytes]]:
    return {
        name: [one.file("detections.parquet").read_bytes() for one in parts] for name, parts in shards.items()
    }


def test_an_image_is_decoded_once_for_all_teachers(
    store: Store, index: Artifact, teachers: list[Teacher], decoded: Counter[str]
) -> None:
    shards = run_teachers(store, teachers, index, SETTINGS)
    assert set(decoded.values()) == {1}
    assert len(decoded) == IMAGES
    assert {name: [part.counts["images"] for part in parts] for name, parts in shards.items()} == {
        teacher.name: [10, 10, 3] for teacher in teachers
    }
    decoded.clear()
    assert run_teachers(store, teachers, index, SETTINGS) == shards
    assert not decoded, "nothing is decoded for what is in the store"


def test_together_alone_and_in_any_batch_the_same_bytes(
    store: Store, index: Artifact, teachers: list[Teacher], tmp_path: Path
) -> None:
    together = run_teachers(store, teachers, index, SETTINGS)
    found = load_all(together["one"])
    assert len(found) > IMAGES // 2
    assert (np.diff(found.image_id) >= 0).all()
    for number, batch in enumerate((1, 7, 1000)):
        other, settings = (
            Store(tmp_path / f"store{number}"),
            SETTINGS.model_copy(update={"batch_size": batch}),
        )
        alone = {one.name: run_inference(other, one, index, settings) for one in teachers}
        assert contents(alone) == contents(together)


def test_only_those_who_lack_a_shard_look_at_it(
    store: Store, index: Artifact, teachers: list[Teacher], decoded: Counter[str]
) -> None:
    run_inference(store, teachers[0], index, SETTINGS)
    decoded.clear()
    asked = Counter[str]()
    records = load_index(index)
    original = onnx.OnnxDetector.predict

    def counting(self: onnx.OnnxDetector, images: list[np.ndarray]):
        asked[self._manifest.name] += len(images)
        return original(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx.OnnxDetector, "predict", counting)
        run_shard(store, teachers, records[:10], SETTINGS, "first")
        forget_detectors()
    assert asked == {"two": 10, "three": 10}
    assert set(decoded.values()) == {1}


def test_a_file_that_is_lost_meanwhile_costs_no_other_image(
    store: Store, index: Artifact, teachers: list[Teacher], folder: Path, decoded: Counter[str]
) -> None:
    settings = SETTINGS.model_copy(update={"max_unanswered": 0.1})
    whole = (folder / "13.png").read_bytes()
    (folder / "13.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"did not answer for 1 of 23 images: .*13\.png was readable when"):
        run_teachers(store, teachers, index, settings)

    shards = run_teachers(store, teachers, index, settings, incomplete=True)
    assert unanswered.images_of(shards) == {teacher.name: [13] for teacher in teachers}
    found = load_all(shards["two"])
    assert 13 not in found.image_id
    assert {12, 14} <= set(found.image_id.tolist()), "its neighbours in the batch are there"

    (folder / "13.png").write_bytes(whole)
    decoded.clear()
    assert sum(missing_shards(store, teacher, index, settings) for teacher in teachers) == 3
    mended = run_teachers(store, teachers, index, settings)
    assert decoded == {"13.png": 1}
    assert 13 in load_all(mended["two"]).image_id


def test_an_image_of_another_size_than_indexed_is_left_out(
    store: Store, index: Artifact, teachers: list[Teacher], folder: Path
) -> None:
    Image.new("RGB", (9, 9)).save(folder / "05.png")
    shards = run_teachers(store, teachers[:1], index, SETTINGS, incomplete=True)
    (reason,) = unanswered.load(shards["one"][0]).values()
    assert "has another size than when it was indexed" in reason


def test_a_teacher_that_fails_leaves_the_shards_of_the_others(
    store: Store, index: Artifact, teachers: list[Teacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = onnx.OnnxDetector.predict

    def failing(self: onnx.OnnxDetector, images: list[np.ndarray]):
        if self._manifest.name == "two":
            raise UserError("two is broken", "mend it")
        return original(self, images)

    monkeypatch.setattr(onnx.OnnxDetector, "predict", failing)
    with pytest.raises(UserError, match="two is broken"):
        run_teachers(store, teachers, index, SETTINGS)
    assert [missing_shards(store, teacher, index, SETTINGS) for teacher in teachers] == [13, 23, 13]


def test_batches_keep_the_order_and_the_limit_of_memory(
    index: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load_index(index)
    found = list(batches(records))
    assert [len(one.records) for one in found] == [4, 8, 11], "the first ones are short"
    assert [record.image_id for one in found for record in one.records] == list(range(IMAGES))
    for batch in found:
        for record, image in zip(batch.records, batch.images, strict=True):
            assert image.shape == (record.height, record.width, 3)
    assert [len(one.records) for one in batches(records[:5], 2)] == [2, 2, 1]
    assert not list(batches([]))

    monkeypatch.setattr(pixels, "BATCH_BYTES", 9000)
    sizes = [[record.width * record.height * 3 for record in one.records] for one in batches(records)]
    assert all(sum(one) <= 9000 or len(one) == 1 for one in sizes)
    assert max(map(len, sizes)) > 1
    assert sum(map(len, sizes)) == IMAGES


def test_who_stops_early_leaves_no_reader_behind(index: Artifact, decoded: Counter[str]) -> None:
    reading = batches(load_index(index), 2)
    next(reading)
    reading.close()
    assert sum(decoded.values()) <= 4
    assert not [one for one in threading.enumerate() if one.name.startswith("decode")]


def test_a_file_that_is_gone_names_itself(tmp_path: Path) -> None:
    gone = ImageRecord(7, "gone.png", str(tmp_path / "gone.png"), 4, 4, "")
    (batch,) = batches([gone])
    assert not batch.records
    assert "gone.png was readable when it was indexed" in batch.bad[7]


def test_teams_hold_what_fits_into_memory_together(teachers: list[Teacher]) -> None:
    one, two, three = teachers
    size = sum(entry.bytes for entry in one.manifest.files.values())
    assert list(teams(teachers)) == [[one, two, three]]
    assert list(teams(teachers, size * 5 // 2)) == [[one, two], [three]]
    assert list(teams(teachers, 1)) == [[one], [two], [three]]
    assert list(teams([])) == []
    assert called([one, two, three]) == "one, two, three"
    assert called([one, two, three, one]) == "one, two and 2 more"


def test_some_images_of_a_pool_are_read_shard_by_shard(store: Store) -> None:
    """What is held at once is one shard, however many there are."""
    space = spaces.build({"one": ("ant", "bee")})
    parts = make_pool(store, space, images=40, shard_size=4, boxes=2000).shards["one"]
    wanted = np.array([3, 17, 39])
    tracemalloc.start()
    found = load_images(parts, wanted)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    everything = load_all(parts)
    expected = everything[np.isin(everything.image_id, wanted)]
    for name in ("image_id", "boxes", "score", "class_id"):
        assert (getattr(found, name) == getattr(expected, name)).all()
    assert most < everything.boxes.nbytes
