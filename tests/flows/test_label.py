"""`label`: the first half alone, on real detectors, and `compose` going on from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pycocotools.coco import COCO

from composition.errors import UserError
from flows.cli.label import Images
from flows.compose import compose
from flows.label import label
from flows.plan import make_label_plan
from flows.recipe import load_recipe
from tasks.home import Home
from tests.flows.conftest import read

pytestmark = pytest.mark.usefixtures("prefect_server")


def _stamps(home: Path) -> dict[Path, int]:
    kinds = ("image-index", "detections", "fusers", "fused", "thresholds", "pseudo-labels", "diagnosis")
    files = [path for kind in kinds for path in (home / "store" / kind).rglob("*") if path.is_file()]
    assert len(files) > len(kinds)
    return {path: path.stat().st_mtime_ns for path in files}


def test_labels_are_exported_and_compose_goes_on_from_them(
    home: Path, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file)
    plan = make_label_plan(recipe, Home.default())
    record = label(recipe, to=tmp_path / "all", detections=True)
    assert record["labelling"] == plan.to_dict()["labelling"]
    assert record["images"] == {"images": 24, "quarantined": 0}
    assert not (home / "store" / "students").exists()

    folder = tmp_path / "all"
    exported = COCO(folder / "labels" / "annotations" / "instances_train.json")
    stored = read(Path(record["labels"]) / "instances.json")
    names = {image["id"]: image["file_name"] for image in stored["images"]}
    for row, original in zip(exported.dataset["annotations"], stored["annotations"], strict=True):
        assert exported.imgs[row["image_id"]]["file_name"] == names[original["image_id"]]
        same = ("category_id", "bbox", "iscrowd", "score")
        assert [row[key] for key in same] == [original[key] for key in same]
    for image in exported.imgs.values():
        assert (folder / "labels" / "images" / image["file_name"]).is_file()
    low = read(folder / "teachers" / "digits-low" / "annotations" / "instances_train.json")
    assert len(low["categories"]) == 7
    assert {"digits-low", "digits-high", "pseudo-labels"} == set(record["exports"])

    before = _stamps(home)
    composed = compose(recipe)
    assert composed["pseudo_labels"] == record["pseudo_labels"]
    after = _stamps(home)
    assert {path: after[path] for path in before} == before, "no step is done twice"
    assert composed["labels"] == str(Path(record["labels"]) / "instances.json")

    again = label(recipe, form="yolo", to=tmp_path / "yolo")
    assert again["labelling"] == record["labelling"]
    assert again["labels"] == record["labels"]
    assert _stamps(home) == after
    assert len(list((tmp_path / "yolo" / "labels" / "train").glob("*.txt"))) == 24


def test_what_further_looks_see_is_fused_as_well(
    home: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_recipe(recipe_file)
    generate = plain.generate.model_copy(update={"augment": "zoom"})
    again = plain.model_copy(update={"generate": generate})
    one, two = label(plain), label(again)
    assert one["labelling"] != two["labelling"]
    stored = read(Path(two["labels"]) / "instances.json")["annotations"]
    assert stored != read(Path(one["labels"]) / "instances.json")["annotations"]
    # shards that are done side by side are the same shards
    before = _stamps(home)
    monkeypatch.setenv("DETCOMPOSE_RUNNER", "threads")
    assert label(again)["labels"] == two["labels"]
    assert _stamps(home) == before


def test_mistakes_are_found_before_any_work(home: Path, recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    with pytest.raises(UserError, match="there is no format 'cocoa'"):
        label(recipe, form="cocoa", to=tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(UserError, match="was not made by an export"):
        label(recipe, to=tmp_path / "mine")
    with pytest.raises(UserError, match="lies within the images"):
        label(recipe, to=recipe.images.source / "labelled")
    assert not home.exists()


def test_the_command_line_knows_what_becomes_of_images() -> None:
    assert [one.value for one in Images] == ["link", "copy", "none"]
