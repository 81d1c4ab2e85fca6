"""YOLO sets as they lie about in the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from composition.errors import UserError
from tasks.evaluate import load_dataset
from tasks.image_index import build_index, list_images, load_quarantine
from tasks.store import Store


def image(path: Path, width: int = 20, height: int = 10, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("RGB", (width, height))
    exif = made.getexif()
    exif[0x0112] = orientation
    made.save(path, exif=exif)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def data_file(folder: Path, **values: Any) -> Path:
    text(folder / "data.yaml", yaml.safe_dump(values))
    return folder / "data.yaml"


def boxes(source: Path) -> dict[str, list[tuple[str, list[float]]]]:
    coco = load_dataset(source).coco
    names = {row["id"]: row["name"] for row in coco["categories"]}
    found: dict[str, list[tuple[str, list[float]]]] = {row["file_name"]: [] for row in coco["images"]}
    files = {row["id"]: row["file_name"] for row in coco["images"]}
    for row in coco["annotations"]:
        found[files[row["image_id"]]].append((names[row["category_id"]], row["bbox"]))
    return found


def test_roboflow_layout_with_names_as_a_list(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        image(tmp_path / part / "images" / f"{part}.jpg")
        text(tmp_path / part / "labels" / f"{part}.txt", "1 0.5 0.5 0.5 1\n\n")
    image(tmp_path / "train" / "images" / "empty.jpg")
    file = data_file(tmp_path, train="../train/images", val="../valid/images", nc=2, names=["car", "bus"])
    expected = {"empty.jpg": [], "train.jpg": [("bus", [5.0, 0.0, 10.0, 10.0])]}
    assert boxes(tmp_path / "data.yaml#train") == expected
    assert boxes(Path(f"{tmp_path}#val")) == {"valid.jpg": [("bus", [5.0, 0.0, 10.0, 10.0])]}
    with pytest.raises(UserError, match="several parts: train, val"):
        load_dataset(file)
    both = list_images(tmp_path / "data.yaml#train,val")
    assert both.paths == ("train/images/empty.jpg", "train/images/train.jpg", "valid/images/valid.jpg")
    assert list_images(Path(f"{tmp_path}#train")).paths == ("empty.jpg", "train.jpg")
    with pytest.raises(UserError, match="no part 'test'"):
        list_images(tmp_path / "data.yaml#test")


def test_coco8_layout_with_names_as_a_mapping_lists_and_a_foreign_path(tmp_path: Path) -> None:
    image(tmp_path / "images" / "train" / "a.png")
    image(tmp_path / "images" / "train" / "b.png")
    text(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2 0.7\n")
    text(tmp_path / "train.txt", "./images/train/a.png\nimages/train/b.png\n")
    file = data_file(tmp_path, path="/datasets/of/somebody", train="train.txt", names={0: "car", 1: "bus"})
    coco = load_dataset(file).coco
    assert [row["file_name"] for row in coco["images"]] == ["a.png", "b.png"]
    assert coco["annotations"][0]["score"] == 0.7
    assert coco["annotations"][0]["bbox"] == pytest.approx([8, 4, 4, 2])


def test_darknet_layout_has_labels_beside_the_images(tmp_path: Path) -> None:
    image(tmp_path / "obj" / "a.jpg")
    text(tmp_path / "obj" / "a.txt", "0 0.5 0.5 1 1")
    file = data_file(tmp_path, train="obj", names=["car"])
    assert boxes(file) == {"a.jpg": [("car", [0, 0, 20, 10])]}


def test_a_plain_folder_with_a_class_list(tmp_path: Path) -> None:
    image(tmp_path / "images" / "sub" / "a.jpg", orientation=6)
    text(tmp_path / "labels" / "sub" / "a.txt", "0 0.1 0.1 0.6 0.1\n1 0.1 0.1 0.5 0.1 0.5 0.9 0.1 0.9\n")
    with pytest.raises(UserError, match="no class list"):
        load_dataset(tmp_path)
    text(tmp_path / "classes.txt", "car\nbus\n")
    # upright, the picture is 10 wide and 20 high; what leaves it is cut; a polygon gives its box
    (found,) = boxes(tmp_path).values()
    assert [name for name, _ in found] == ["car", "bus"]
    assert found[0][1] == pytest.approx([0, 1, 4, 2])
    assert found[1][1] == pytest.approx([1, 2, 4, 16])


def test_links_to_images_keep_their_labels(tmp_path: Path) -> None:
    real = image(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.png").symlink_to(real)
    text(tmp_path / "set" / "labels" / "a.txt", "0 0.5 0.5 1 1")
    assert boxes(data_file(tmp_path / "set", train="images", names=["car"]))["a.png"]


def test_an_unreadable_image_is_left_out_by_the_index_and_ends_nothing(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "images" / "bad.png", "no image")
    for name in ("a", "bad"):
        text(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 1 1")
    data = load_dataset(data_file(tmp_path, train="images", names=["car"]))
    assert len(data.coco["annotations"]) == 1
    index = build_index(Store(tmp_path / "store"), data.listing)
    assert [row["path"] for row in load_quarantine(index)] == ["bad.png"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 1", r"a\.txt:2: 4 numbers instead of 5"),
        ("2 0.5 0.5 1 1", r"a\.txt:2: class 2 is not one of 0 to 1"),
        ("-1 0.5 0.5 1 1", "class -1 is not"),
        ("0.5 0.5 0.5 1 1", "class 0.5 is not"),
        ("0 0.5 nan 1 1", "not finite"),
        ("0 120 0.5 1 1", "not from 0 to 1"),
        ("0 0.5 0.5 -0.2 1", "not from 0 to 1"),
        ("car 0.5 0.5 1 1", "not all are numbers"),
        ("0 0.5 0.5 1 1 0.5 0.5 0.5", "8 numbers"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", f"0 0.5 0.5 1 1\n{line}\n")
    file = data_file(tmp_path, train="images", names=["car", "bus"])
    with pytest.raises(UserError, match=message):
        load_dataset(file)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": "images"}, "'names' is missing"),
        ({"train": "images", "names": ["a", "a"]}, "appears twice"),
        ({"train": "images", "names": {1: "a"}}, "does not count from 0"),
        ({"train": "images", "names": ["a"], "nc": 2}, "'nc' is 2"),
        ({"names": ["a"]}, "neither 'train' nor"),
        ({"train": "nowhere", "names": ["a"]}, "nowhere does not exist"),
        ({"train": 3, "names": ["a"]}, "not a folder"),
        ({"train": "images", "names": ["a"]}, "not one image has a label file"),
    ],
)
def test_a_wrong_data_file_is_an_error(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    image(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=message):
        load_dataset(data_file(tmp_path, **values))


def test_a_data_file_runs_no_code(tmp_path: Path) -> None:
    text(tmp_path / "data.yaml", "names: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(UserError, match=r"data\.yaml:1: not valid YAML"):
        load_dataset(tmp_path / "data.yaml")


def test_a_folder_without_labels_is_an_error_that_lists_the_forms(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no labels in a known form") as caught:
        load_dataset(tmp_path)
    assert "classes.txt" in caught.value.way_out
    assert list_images(tmp_path).paths == ("a.png",)
    with pytest.raises(UserError, match="does not exist"):
        load_dataset(tmp_path / "gone.json")
