"""Fine-tuning on a real Prefect server, a real MLflow database and real small detectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from composition.errors import UserError
from flows.compose import compose
from flows.finetune import finetune
from flows.recipe import EvaluationSettings, Recipe
from model_zoo import bundle
from model_zoo.finetuning import FinetuneSettings
from tests.flows.conftest import TEACHERS, read, small_recipe

pytestmark = pytest.mark.usefixtures("prefect_server")

SETTINGS = FinetuneSettings(steps=2, batch_size=4, image_size=96)


def test_a_composition_is_tuned_on_labels_of_some_classes(home: Path, scenes: Path, tmp_path: Path) -> None:
    record = compose(Recipe.model_validate(small_recipe(scenes, evaluate=[])))
    evaluation = scenes / "evaluation" / "scenes.json"
    # two pictures of the pool, called otherwise, and people's labels of three classes for them
    few = tmp_path / "few"
    few.mkdir()
    pool = read(Path(record["labels"]))
    document = {
        "images": [
            {"id": place, "file_name": f"{place}.jpg", "width": image["width"], "height": image["height"]}
            for place, image in enumerate(pool["images"][:2])
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 4, "bbox": [10, 10, 30, 30]}],
        "categories": [
            {"id": number, "name": name} for number, name in ((3, "two"), (4, "zero"), (9, "nine"))
        ],
    }
    for place, image in enumerate(pool["images"][:2]):
        shutil.copy(Path(record["image_root"]) / image["file_name"], few / f"{place}.jpg")
    labels = few / "labels.json"
    labels.write_text(json.dumps(document))

    sets = [EvaluationSettings(name="evaluation", annotations=evaluation)]
    done = finetune("tuned", "digits", labels, classes=["zero", "two"], settings=SETTINGS, evaluate=sets)
    assert done["covered"] == ["zero", "two"]
    assert done["labels"]["human_images"] == 2
    # two steps of four images show two of people's twice, and four of the other 22
    assert done["labels"]["images"] == 6
    assert done["labels"]["repeat"] == 2
    assert done["settings"]["epochs"] == 1
    assert done["labels"]["unspoken"] == 0
    manifest = bundle.read(home / "teachers" / "tuned")
    assert manifest.digest == done["digest"]
    assert manifest.provenance["finetuned_from"]["digest"] == record["student"]

    (file,) = (home / "store" / "annotations").glob("[!.]*/instances.json")
    merged = read(file)
    numbers = {category["name"]: category["id"] for category in merged["categories"]}
    first = [row for row in merged["annotations"] if row["image_id"] == 1]
    covered = [row for row in first if row["category_id"] in (numbers["zero"], numbers["two"])]
    assert [row["bbox"] for row in covered] == [[10, 10, 30, 30]]
    assert any("score" in row for row in merged["annotations"]), "pseudo-labels keep their weights"

    result = done["evaluations"]["evaluation"]
    assert result["labelled"]["classes"] + result["others"]["classes"] == result["classes"]
    assert result["per_class"]["zero"]["labelled"]
    assert not result["per_class"]["nine"]["labelled"]
    change = result["AP"]["change"]
    assert change["low"] <= change["value"] <= change["high"]
    assert change["value"] == pytest.approx(result["AP"]["after"] - result["AP"]["before"])

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'students.tuned'")
    assert version.tags["parents"].startswith("digits=")
    assert client.get_run(done["run_id"]).info.status == "FINISHED"

    again = finetune("tuned", "digits", labels, classes=["zero", "two"], settings=SETTINGS, evaluate=sets)
    assert again["unchanged"]
    assert again["run_id"] == done["run_id"]
    with pytest.raises(UserError, match="taken by another detector"):
        finetune("tuned", "digits", labels, classes=["zero"], settings=SETTINGS)
    with pytest.raises(UserError, match="that of a composition"):
        finetune("digits", "digits", labels, settings=SETTINGS)


def test_a_teacher_is_tuned_on_a_nested_part_of_labels_alone(home: Path, scenes: Path) -> None:
    labels = scenes / "evaluation" / "scenes.json"
    low = str(TEACHERS / "digits-low")
    done = finetune("low", low, labels, count=3, settings=SETTINGS, seed=1)
    assert (done["labels"]["images"], done["labels"]["repeat"]) == (3, 1)
    # the teacher knows zero to six, and the file labels them all
    assert done["covered"] == ["zero", "one", "two", "three", "four", "five", "six"]
    more = finetune("more", low, labels, fraction=0.5, settings=SETTINGS, seed=1)
    names = [
        {image["file_name"] for image in read(file)["images"]}
        for file in (home / "store" / "annotations").glob("[!.]*/instances.json")
    ]
    small, large = sorted(names, key=len)
    assert small < large
    assert more["digest"] != done["digest"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 99}, "99 labelled images are asked for, but .* has 8"),
        ({"count": 2, "fraction": 0.5}, "both a number"),
        ({"fraction": 1.5}, "not in"),
        ({"classes": ["eleven"]}, "no class 'eleven'"),
        ({"settings": FinetuneSettings(image_size=100)}, "image_size"),
        ({"name": "No Name"}, "cannot be a detector's name"),
        ({"evaluate": True}, r"detector digits-low and .*letters\.json have no class in common"),
    ],
)
def test_what_is_wrong_is_said_before_training(
    home: Path, scenes: Path, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    if "evaluate" in changes:
        letters = read(scenes / "evaluation" / "scenes.json")
        for category in letters["categories"]:
            category["name"] = f"letter {category['name']}"
        (tmp_path / "letters.json").write_text(json.dumps(letters))
        entry = EvaluationSettings(annotations=tmp_path / "letters.json", root=scenes / "evaluation")
        changes = {"evaluate": [entry]}
    arguments = {
        "name": "tuned",
        "student": str(TEACHERS / "digits-low"),
        "labels": scenes / "evaluation" / "scenes.json",
        **changes,
    }
    with pytest.raises(UserError, match=problem):
        finetune.fn(**arguments)  # type: ignore[arg-type]
    assert not (home / "store" / "students").exists()
