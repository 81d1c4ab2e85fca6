"""The main job on a real Prefect server, a real MLflow database and real small detectors."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from composition.errors import UserError
from flows.compose import compose
from flows.plan import make_plan
from flows.recipe import Recipe, load_recipe
from model_zoo import bundle
from tasks.home import Home
from tasks.method_settings import FilterSettings
from tests.flows.conftest import read, small_recipe

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_two_teachers_become_one_registered_student(home: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    record = compose(recipe)

    manifest = bundle.read(Path(record["bundle"]))
    assert manifest.adapter == "mmdet"
    assert len(manifest.vocabulary) == 10
    assert set(manifest.provenance["teachers"]) == {"digits-low", "digits-high"}
    assert record["images"] == {"images": 24, "quarantined": 0}
    assert record["pseudo_labels"]["labels"] > 0

    rows = record["evaluations"]["evaluation"]
    assert [(row["name"], row["scope"]) for row in rows] == [
        ("digits-low", "own"),
        ("digits-low", "all"),
        ("digits-high", "own"),
        ("digits-high", "all"),
        ("ensemble (nms)", "all"),
        ("ensemble (wbf)", "all"),
        ("ensemble (expert)", "all"),
        ("digits", "all"),
    ]
    page = Path(record["report"]).read_text()
    assert "digits-high" in page
    assert "ensemble (expert)" in page
    # a class that a teacher does not know is a dash, not a failure: zero to three of digits-high
    (line,) = re.findall(r'<tr class="teacher">(?:(?!</tr>).)*digits-high.*?</tr>', page, re.DOTALL)
    assert line.count(">–</td>") >= 4  # noqa: RUF001

    assert "How sure, and at what cost" in page
    assert "Before training" in page
    (diagnosed,) = (home / "store" / "diagnosis").glob("[!.]*/diagnosis.json")
    document = read(diagnosed)
    assert document["images"] == 24
    assert sum(one["positives"] for one in document["classes"]) == record["pseudo_labels"]["labels"]
    assert sum(one["ignored"] for one in document["classes"]) == record["pseudo_labels"]["ignore_regions"]
    assert sum(document["teachers"][0]["profile"]["boxes"]) == 24
    assert list(diagnosed.parent.glob("*.png"))
    student = rows[-1]
    assert student["interval"]["AP"]["low"] <= student["AP"] <= student["interval"]["AP"]["high"]
    assert all("lead" in row for row in rows[:-1])
    assert "lead" not in student
    members = [row["cost"]["single"]["median"] for row in rows if row["scope"] == "own"]
    ensemble = next(row for row in rows if row["role"] == "ensemble")
    assert ensemble["cost"]["single"]["median"] > sum(members)

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'students.digits'")
    assert version.tags["digest"] == record["student"]
    assert version.tags["composition"] == record["composition"]
    assert "digits-low=" in version.tags["parents"]
    assert version.tags["classes"].startswith("zero, one")
    run = client.get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["student.architecture"] == "yolox_pico"
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{record['run_id']}'"
    )
    steps = {child.info.run_name: child for child in children}
    method = {"calibrate", "aggregate", "thresholds", "label", "diagnose"}
    assert {"index", "infer", "train", "evaluate evaluation", "register"} | method <= set(steps)
    logged = client.list_artifacts(steps["diagnose"].info.run_id, "diagnosis")
    assert "diagnosis/diagnosis.json" in {item.path for item in logged}
    assert client.get_metric_history(steps["train"].info.run_id, "loss")
    plan = make_plan(recipe, Home(home))
    datasets = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert set(datasets) == {"pool", "evaluation"}
    assert datasets["pool"].dataset.digest == plan.images_digest[:36]
    assert datasets["evaluation"].tags[0].value == "evaluation"
    assert plan.finished(Home(home))
    assert {item.path for item in client.list_artifacts(record["run_id"])} == {"student", "report"}

    # what the report says to run is there, and is this composition
    kept_recipe = Path(record["report"]).with_name("recipe.yaml")
    assert f"detcompose compose {kept_recipe}" in page
    assert make_plan(load_recipe(kept_recipe), Home(home)).record_key == plan.record_key

    # nothing has changed: no work, no new run, no new version
    again = compose(recipe)
    assert again["unchanged"]
    assert again["run_id"] == record["run_id"]
    assert len(client.search_model_versions("name = 'students.digits'")) == 1

    # another threshold needs new labels and a new student, but no inference and no fusion
    stamps = _stamps(home)
    assert {path.name for path in stamps} == {"detections.parquet", "fused.parquet", "regions.parquet"}
    changed = recipe.model_copy(update={"filter": FilterSettings(keep=0.6)})
    other = compose(changed)
    assert other["composition"] != record["composition"]
    assert other["pseudo_labels"]["labels"] <= record["pseudo_labels"]["labels"]
    after = _stamps(home)
    assert {path: after[path] for path in stamps} == stamps
    assert len(client.search_model_versions("name = 'students.digits'")) == 2

    # a composition whose report the tracking server did not take is not finished
    shutil.rmtree(home / "store" / "compositions")
    kept = Path(urlsplit(run.info.artifact_uri).path) / "report"
    shutil.rmtree(kept)
    kept.write_text("in the way")
    with pytest.raises(OSError, match="report"):
        compose(recipe)
    assert not plan.finished(Home(home))
    kept.unlink()
    assert "unchanged" not in compose(recipe)
    assert (kept / "report.html").is_file()
    assert plan.finished(Home(home))


def test_a_second_run_of_a_composition_waits_for_the_first(home: Path, recipe_file: Path) -> None:
    """Otherwise both would label, train and register the same."""
    recipe, place = load_recipe(recipe_file), Home(home)
    key = make_plan(recipe, place).record_key
    with ThreadPoolExecutor(1) as pool:
        with place.store.working("compositions", key):
            second = pool.submit(compose.fn, recipe)
            with pytest.raises(TimeoutError):
                second.result(3)
            with place.store.write("compositions", key, {}) as draft:
                draft.file("composition.json").write_text('{"student": "of the first"}')
                draft.file("report.html").write_text("the first's")
        done = second.result(120)
    assert (done["student"], done["unchanged"]) == ("of the first", True)
    assert {path.name for path in (home / "store").iterdir()} == {"compositions", "work"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DETCOMPOSE_RUNNER", "spark"), ("DETCOMPOSE_WORKERS", "many"), ("DETCOMPOSE_DEVICE", "cuda:9")],
)
def test_a_wrong_environment_is_found_before_any_work(
    home: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable} is '{value}'"):
        compose.fn(load_recipe(recipe_file))
    assert not home.exists()


def _stamps(home: Path) -> dict[Path, int]:
    found = [path for kind in ("detections", "fused") for path in (home / "store" / kind).rglob("*.parquet")]
    return {path: path.stat().st_mtime_ns for path in found}


def _plan(scenes: Path, home: Path, **changes: object) -> None:
    recipe = Recipe.model_validate(small_recipe(scenes, **changes))
    make_plan(recipe, Home(home))


def test_the_digest_ignores_names_places_and_batches(home: Path, scenes: Path, tmp_path: Path) -> None:
    one = make_plan(Recipe.model_validate(small_recipe(scenes)), Home(home))
    moved = tmp_path / "moved"
    moved.symlink_to(scenes / "pool")
    other = Recipe.model_validate(
        small_recipe(
            scenes,
            name="other",
            images={"source": str(moved)},
            generate={"batch_size": 3, "shard_size": 7, "augment": "none"},
        )
    )
    assert make_plan(other, Home(home)).digest == one.digest
    assert make_plan(other, Home(home), limit=5).digest != one.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["nobody"]}, "there is no teacher 'nobody'"),
        ({"images": {"source": "/nowhere"}}, "images: /nowhere does not exist"),
        ({"images": {"source": "/proc/self/task"}}, "images: /proc/self/task holds no images"),
        ({"filter": {"per_class": {"eleven": 0.5}}}, "filter.per_class: there is no class 'eleven'"),
        ({"fuse": {"method": "wbf", "weights": [1.0]}}, "fuse.weights: 1 weights for 2 teachers"),
        (
            {"fuse": {"method": "wbf"}, "calibrate": {"method": "label-free"}},
            "calibrate.method: fuser wbf cannot be calibrated",
        ),
        ({"filter": {"rule": "f_beta"}}, "filter.rule: f_beta needs labels"),
        ({"calibrate": {"annotations": "/nowhere.json"}}, "/nowhere.json does not exist"),
        ({"label_space": {"classes": ["zero", "one"]}}, "'two'"),
        ({"label_space": {"parents": {"zero": "digit"}}}, "parents name 'digit'"),
        ({"label_space": {"file": "/nowhere.yaml"}}, "label space /nowhere.yaml cannot be read"),
        ({"evaluate": [{"annotations": "/nowhere.json"}]}, "/nowhere.json does not exist"),
        (
            {"student": {"architecture": "yolox_pico", "warm_start": "bundle:nobody"}},
            "student.warm_start: there is no teacher 'nobody'",
        ),
        ({"baselines": [{"name": "b", "bundle": "nobody"}]}, "there is no teacher 'nobody'"),
        (
            {"evaluate": [{"annotations": "SCENES/evaluation/scenes.json", "root": "/proc/self/task"}]},
            "scenes.json: not one of its 8 images is in /proc/self/task, for example scene-0001.jpg",
        ),
        (
            {"evaluate": [{"annotations": "SCENES/letters.json", "root": "SCENES/evaluation"}]},
            "the label space and SCENES/letters.json have no class in common",
        ),
        (
            {"calibrate": {"annotations": "SCENES/letters.json", "root": "SCENES/evaluation"}},
            "the label space and SCENES/letters.json have no class in common",
        ),
    ],
)
def test_mistakes_are_found_before_any_work(
    home: Path, scenes: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    letters = read(scenes / "evaluation" / "scenes.json")
    for category in letters["categories"]:
        category["name"] = f"letter {category['name']}"
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "letters.json").write_text(json.dumps(letters))
    (folder / "evaluation").symlink_to(scenes / "evaluation")
    text = json.dumps(changes).replace("SCENES", str(folder))
    with pytest.raises(UserError) as caught:
        _plan(scenes, home, **json.loads(text))
    assert message.replace("SCENES", str(folder)) in str(caught.value)
    assert not home.exists()


def test_changed_evaluation_images_are_measured_again(home: Path, scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "evaluation"
    shutil.copytree(scenes / "evaluation", copy)
    recipe = Recipe.model_validate(
        small_recipe(scenes, evaluate=[{"annotations": str(copy / "scenes.json")}])
    )
    before = make_plan(recipe, Home(home))
    picture = next(copy.rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    after = make_plan(recipe, Home(home))
    assert after.digest == before.digest, "the student is the same"
    assert after.record_key != before.record_key, "what is said about it is not"


def test_every_odd_image_is_used_or_left_out_with_a_reason(home: Path, scenes: Path, tmp_path: Path) -> None:
    """The whole job on a pool of everything that a stranger's folder may hold."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for file in sorted((scenes / "pool").glob("*.jpg"))[:4]:
        shutil.copy(file, pool)
    scene = Image.open(next(pool.iterdir())).convert("RGB")
    exif = scene.getexif()
    exif[0x0112] = 6
    scene.resize((120, 80)).save(pool / "turned.jpg", exif=exif)
    scene.convert("CMYK").save(pool / "cmyk.jpg")
    Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) << 8).save(pool / "grey16.png")
    scene.resize((1, 1)).save(pool / "one.png")
    scene.resize((400, 1)).save(pool / "line.png")
    (pool / "zero.jpg").write_bytes(b"")
    (pool / "noise.jpg").write_bytes(b"no image at all")
    (pool / "cut.jpg").write_bytes((pool / "cmyk.jpg").read_bytes()[:900])
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    (pool / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    record = compose(
        Recipe.model_validate(
            small_recipe(scenes, images={"source": str(pool)}, evaluate=[], filter={"keep": 0.05})
        )
    )
    assert record["images"] == {"images": 9, "quarantined": 4}
    (quarantine,) = (home / "store" / "image-index").glob("[!.]*/quarantine.parquet")
    reasons = {row["path"]: row["reason"] for row in pq.read_table(quarantine).to_pylist()}
    assert set(reasons) == {"zero.jpg", "noise.jpg", "cut.jpg", "huge.png"}
    (labels,) = (home / "store" / "pseudo-labels").glob("[!.]*/instances.json")
    sizes = {row["file_name"]: (row["width"], row["height"]) for row in read(labels)["images"]}
    assert sizes["turned.jpg"] == (80, 120)
    assert sizes["one.png"] == (1, 1)


def test_a_changed_weight_file_is_noticed(home: Path, scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    source = Path(small_recipe(scenes)["teachers"][0])
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match="sha256 differs"):
        _plan(scenes, home, teachers=[str(copy)])


def test_recipes_round_trip_through_yaml(scenes: Path) -> None:
    recipe = Recipe.model_validate(small_recipe(scenes))
    text = yaml.safe_dump(recipe.model_dump(mode="json"))
    assert Recipe.model_validate(yaml.safe_load(text)) == recipe


def test_what_the_method_learns_from_is_part_of_the_identity(home: Path, scenes: Path) -> None:
    labels = str(scenes / "evaluation" / "scenes.json")

    def digest(**changes: object) -> str:
        return make_plan(Recipe.model_validate(small_recipe(scenes, **changes)), Home(home)).digest

    plain = digest()
    assert digest(calibrate={"method": "label-free"}) == plain
    assert digest(fuse={"iou": 0.6}) == plain, "a default that is written out is the same"
    others = [
        digest(calibrate={"method": "none"}),
        digest(calibrate={"annotations": labels}),
        digest(calibrate={"annotations": labels, "images": 5}),
        digest(fuse={"iou": 0.5}),
        digest(fuse={"method": "wbf"}),
        digest(filter={"keep": 0.5}),
        digest(filter={"keep": 0.5, "minimum_size": 4}),
        digest(generate={"augment": "flip"}),
    ]
    assert len({plain, *others}) == len(others) + 1
    # labels that nothing is learned from decide nothing
    unused = {"calibrate": {"annotations": labels, "method": "none"}, "filter": {"rule": "mixture"}}
    assert digest(**unused) == digest(calibrate={"method": "none"}, filter={"rule": "mixture"})


def test_overrides_take_lists_and_relations(home: Path, scenes: Path) -> None:
    """One digit detector taken for a coarse one: it leaves open what another knows."""
    changes = {
        "classes": ["zero", "four", "five", "six", "seven", "eight", "nine", "low"],
        "parents": {"zero": "low"},
        "overrides": {
            "digits-low": {
                "one": {"narrower": "low"},
                "two": {"broader": ["zero", "four"]},
                "three": ["five", "six"],
            }
        },
    }
    plan = make_plan(Recipe.model_validate(small_recipe(scenes, label_space=changes)), Home(home))
    entries = {entry.teacher_class: entry for entry in plan.space.teachers["digits-low"]}
    assert (entries["one"].relation, entries["one"].targets) == ("narrower", ("low",))
    assert (entries["two"].relation, entries["two"].targets) == ("broader", ("four", "zero"))
    assert (entries["three"].relation, entries["three"].targets) == ("broader", ("five", "six"))
    assert plan.space.parents == {"zero": "low"}
