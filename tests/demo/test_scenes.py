from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from composition.errors import UserError
from demo import scenes
from demo.drawing import make_glyph


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.make_scenes(tmp_path_factory.mktemp("scenes") / "all", images=60, seed=5)


def test_same_seed_gives_the_same_bytes(labelled: Path, tmp_path: Path) -> None:
    again = scenes.make_scenes(tmp_path / "all", images=60, seed=5)
    assert contents(again.parent) == contents(labelled.parent)


def test_another_seed_gives_other_pictures(labelled: Path, tmp_path: Path) -> None:
    other = scenes.make_scenes(tmp_path / "other", images=1, seed=6).parent / "scene-0001.jpg"
    assert other.read_bytes() != (labelled.parent / "scene-0001.jpg").read_bytes()


def test_fewer_images_are_a_prefix_and_unlabeled_ones_have_the_same_pictures(
    labelled: Path, tmp_path: Path
) -> None:
    few = scenes.make_scenes(tmp_path / "few", images=3, seed=5, labelled=False)
    pictures = contents(few.parent)
    assert set(read(few)) == {"info", "images"}
    assert pictures.pop("scenes.json")
    assert pictures.items() <= contents(labelled.parent).items()


def test_coco_file_is_sound(labelled: Path) -> None:
    document = read(labelled)
    assert [category["name"] for category in document["categories"]] == list(scenes.NAMES)
    assert [row["id"] for row in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    per_image = np.bincount([row["image_id"] for row in document["annotations"]], minlength=61)[1:]
    assert per_image.min() >= 1
    assert per_image.max() <= 6
    for image in document["images"]:
        with Image.open(labelled.parent / image["file_name"]) as picture:
            assert (picture.format, picture.size) == ("JPEG", (192, 192))
    for row in document["annotations"]:
        x, y, width, height = row["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 192
        assert y + height <= 192
        assert row["area"] == width * height
        assert row["iscrowd"] == 0


def test_boxes_hardly_overlap_and_vary_in_size(labelled: Path) -> None:
    rows = read(labelled)["annotations"]
    longer = np.array([max(row["bbox"][2:]) for row in rows])
    assert longer.min() < 32
    assert longer.max() > 55
    for image_id in {row["image_id"] for row in rows}:
        boxes = np.array([row["bbox"] for row in rows if row["image_id"] == image_id], float)
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        sides = np.minimum(corners[:, None, 2:], corners[:, 2:]) - np.maximum(
            corners[:, None, :2], corners[:, :2]
        )
        shared = sides.clip(0).prod(axis=2)
        area = boxes[:, 2:].prod(axis=1)
        iou = shared / (area[:, None] + area - shared)
        assert (iou[~np.eye(len(boxes), dtype=bool)] < 0.1).all()


@pytest.mark.parametrize("digits", [range(7), range(4, 10), (3,)])
def test_only_the_digits_asked_for(tmp_path: Path, digits: tuple[int, ...]) -> None:
    document = read(scenes.make_scenes(tmp_path / "s", images=40, seed=1, digits=digits, part="teachers"))
    expected = {digit + 1: scenes.NAMES[digit] for digit in digits}
    assert {row["id"]: row["name"] for row in document["categories"]} == expected
    assert {row["category_id"] for row in document["annotations"]} == set(expected)


def test_parts_share_no_handwriting_and_evaluation_photographs_are_new() -> None:
    used = [set(range(500)[rows]) for rows in scenes.HANDWRITING.values()]
    assert sum(map(len, used)) == len(set.union(*used)) == 500
    assert len(np.unique(scenes.handwriting().reshape(5000, -1), axis=0)) == 5000
    evaluation = set(scenes.PHOTOGRAPHS["evaluation"])
    assert not evaluation & {*scenes.PHOTOGRAPHS["teachers"], *scenes.PHOTOGRAPHS["pool"]}


@pytest.mark.parametrize("name", sorted({name for part in scenes.PHOTOGRAPHS.values() for name in part}))
def test_photographs_are_in_the_wheels(name: str) -> None:
    photo = scenes.photograph(name)
    assert photo.mode == "RGB"
    assert min(photo.size) >= 192


@pytest.mark.parametrize("angle", [-25.0, 0.0, 25.0])
@pytest.mark.parametrize("length", [20.0, 60.0])
def test_glyphs_are_cut_tight(angle: float, length: float) -> None:
    for digit in range(10):
        glyph = make_glyph(scenes.handwriting()[digit, 0], length, angle=angle, weight=0.4)
        for edge in (glyph[0], glyph[-1], glyph[:, 0], glyph[:, -1]):
            assert edge.max() >= 0.5
        if angle == 0:
            assert abs(max(glyph.shape) - length) <= 0.15 * length + 2


def test_a_complete_set_is_left_alone_and_a_damaged_or_other_one_replaced(tmp_path: Path) -> None:
    path = scenes.make_scenes(tmp_path / "s", images=2, seed=1)
    first, before = path.stat().st_mtime_ns, contents(path.parent)
    scenes.make_scenes(tmp_path / "s", images=2, seed=1)
    assert path.stat().st_mtime_ns == first
    (path.parent / "scene-0002.jpg").unlink()
    scenes.make_scenes(tmp_path / "s", images=2, seed=1)
    assert contents(path.parent) == before
    scenes.make_scenes(tmp_path / "s", images=1, seed=1)
    assert sorted(contents(path.parent)) == ["scene-0001.jpg", "scenes.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scenes.PHOTOGRAPHS, "pool", ("skimage:no-such-file.png",))
    with pytest.raises(FileNotFoundError):
        scenes.make_scenes(tmp_path / "s", images=2, seed=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images is 0"),
        ({"size": 20}, "size is 20"),
        ({"digits": ()}, "digits are"),
        ({"digits": (1, 1)}, "digits are"),
        ({"digits": (10,)}, "digits are"),
        ({"part": "other"}, "unknown part"),
    ],
)
def test_impossible_settings_are_explained(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scenes.make_scenes(tmp_path / "s", **{"images": 1, "seed": 0, **change})


def test_a_folder_of_other_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no scenes"):
        scenes.make_scenes(tmp_path, images=1, seed=0)


def test_command_writes_all_sets_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        name: scenes.SceneSettings(2, s.seed, s.size, s.digits, s.labelled, s.part)
        for name, s in scenes.SETS.items()
    }
    monkeypatch.setattr(scenes, "SETS", small)
    scenes.main(["--out", str(tmp_path)])
    scenes.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out.count("already there") == len(small)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(small)
    assert "annotations" not in read(tmp_path / "pool" / "scenes.json")
    assert "annotations" in read(tmp_path / "evaluation" / "scenes.json")
