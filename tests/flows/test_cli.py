"""The command line in this process: what it prints, for people and for machines, and its exit codes."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import train
from model_zoo import bundle
from model_zoo.student_settings import StudentSettings
from tests.flows.conftest import TEACHERS, Run, small_recipe


def _add(run: Run, data_dir: Path, name: str = "fd") -> tuple[int, str, str]:
    folder = data_dir / "teachers"
    return run(
        "teacher", "add", folder / "fastestdet_coco" / "FastestDet.onnx",
        "--classes", folder / "coco.names", "--name", name, "--json",
    )  # fmt: skip


def test_a_teacher_is_added_listed_and_shown(run: Run, data_dir: Path) -> None:
    code, out, _ = _add(run, data_dir)
    assert code == 0
    added = json.loads(out)
    assert added["name"] == "fd"
    assert json.loads(_add(run, data_dir)[1]) == added  # the same twice is no error

    code, out, _ = run("teacher", "list", "--json")
    assert [(t["name"], t["digest"], len(t["classes"])) for t in json.loads(out)] == [
        ("fd", added["digest"], 80)
    ]
    code, out, _ = run("teacher", "show", "fd", "--json")
    assert json.loads(out)["output"]["decoder"] == "fastestdet"
    assert "fastestdet" in run("teacher", "list")[1]
    assert added["digest"] in run("teacher", "show", "fd")[1]


def test_a_teacher_is_evaluated_on_the_classes_that_it_shares(run: Run, data_dir: Path) -> None:
    _add(run, data_dir)
    code, out, _ = run(
        "teacher", "evaluate", "fd", "--images", data_dir / "coco" / "val.json", "--limit", "20", "--json"
    )
    assert code == 0
    metrics = json.loads(out)
    assert metrics["images"] == 20
    assert 0 < metrics["AP"] < metrics["AP50"] < 100
    # sofa and tvmonitor are known to the file as couch and tv
    assert "couch" in metrics["per_class"] or "tv" in metrics["per_class"]


def test_a_name_belongs_to_one_detector(run: Run, data_dir: Path) -> None:
    _add(run, data_dir)
    code, _, err = run("teacher", "add", TEACHERS / "digits-low", "--name", "fd")
    assert code == 2
    assert "the name 'fd' is taken by another detector" in err


def test_classes_of_the_wrong_length_are_an_error(run: Run, data_dir: Path) -> None:
    folder = data_dir / "teachers"
    code, _, err = run(
        "teacher", "add", folder / "fastestdet_coco" / "FastestDet.onnx",
        "--classes", folder / "voc.names", "--name", "fd",
    )  # fmt: skip
    assert code == 2
    assert "80" in err
    assert "20" in err


def test_label_spaces_are_proposed_and_checked(run: Run, tmp_path: Path) -> None:
    teachers = f"{TEACHERS / 'digits-low'},{TEACHERS / 'digits-high'}"
    code, text, _ = run("label-space", "propose", "--teachers", teachers)
    assert code == 0
    file = tmp_path / "space.yaml"
    file.write_text(text)
    code, out, _ = run("label-space", "check", file, "--teachers", teachers, "--json")
    assert code == 0
    assert json.loads(out)["classes"][:2] == ["zero", "one"]
    file.write_text(text.replace("nine: nine", "nine: ninety"))
    code, _, err = run("label-space", "check", file, "--teachers", teachers)
    assert code == 2
    assert "space.yaml:" in err


def test_a_dry_run_prints_the_plan_and_runs_nothing(run: Run, home: Path, recipe_file: Path) -> None:
    code, out, _ = run("compose", recipe_file, "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["images"]["count"] == 24
    assert plan["label_space"]["coverage"]["digits-low"] == [True] * 7 + [False] * 3
    assert plan["estimate"]["training_seconds"] > 0
    assert plan["method"]["fuser"]["name"] == "expert"
    assert plan["method"]["calibration"] == "label-free"
    assert plan["method"]["thresholds"]["rule"] == "expected_f"
    assert not (home / "store").exists()
    code, out, _ = run("compose", recipe_file, "--dry-run", "--limit", "5")
    assert "Nothing was run" in out
    assert "5 of" in out
    assert "expert, iou 0.6" in out
    assert "label-free" in out
    assert "expected_f" in out


@pytest.mark.usefixtures("prefect_server")
def test_compose_report_evaluate_and_predict(
    run: Run, home: Path, recipe_file: Path, scenes: Path, tmp_path: Path
) -> None:
    code, out, _ = run("compose", recipe_file, "--limit", "16", "--json")
    assert code == 0
    record = json.loads(out)
    code, out, _ = run("compose", recipe_file, "--limit", "16")
    assert "no work was done" in out
    assert "a run would do no work" in run("compose", recipe_file, "--limit", "16", "--dry-run")[1]

    code, out, _ = run("report", "digits", "--json")
    assert json.loads(out)["composition"] == record["composition"]
    assert "report.html" in run("report")[1]
    code, _, err = run("report", "letters")
    assert code == 2
    assert "digits" in err

    annotations = scenes / "evaluation" / "scenes.json"
    code, out, _ = run(
        "evaluate", record["bundle"], TEACHERS / "digits-low", "--images", annotations, "--json"
    )
    rows: list[dict[str, Any]] = json.loads(out)["rows"]
    assert rows[0]["AP"] == record["evaluations"]["evaluation"][-1]["AP"]
    assert rows[1]["AP"] == record["evaluations"]["evaluation"][0]["AP"]

    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    pictures = tmp_path / "pictures"
    code, out, _ = run(
        "predict", TEACHERS / "digits-low", scenes / "evaluation", bad, "--out", pictures, "--json"
    )
    assert code == 0
    results = json.loads(out)
    assert len(results) == 9
    assert "0 bytes" in results[-1]["error"]
    assert sum(len(result.get("detections", [])) for result in results) > 5
    assert all(Path(result["picture"]).is_file() for result in results[:-1])


def test_pictures_replace_neither_images_nor_each_other(run: Run, scenes: Path, tmp_path: Path) -> None:
    teacher = TEACHERS / "digits-low"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(next((scenes / "evaluation").rglob("*.jpg")), tmp_path / folder / "cat.jpg")
    before = (tmp_path / "one" / "cat.jpg").read_bytes()
    code, _, err = run("predict", teacher, tmp_path / "one", "--out", tmp_path / "one")
    assert code == 2
    assert "would replace" in err
    assert (tmp_path / "one" / "cat.jpg").read_bytes() == before

    code, out, _ = run(
        "predict",
        teacher,
        tmp_path / "one",
        tmp_path / "two" / "cat.jpg",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert code == 0
    assert [Path(entry["picture"]).name for entry in json.loads(out)] == ["cat.jpg", "cat-2.jpg"]


def test_unusable_evaluation_images_are_told(
    run: Run, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(scenes / "evaluation", tmp_path / "evaluation")
    next((tmp_path / "evaluation").rglob("*.jpg")).unlink()
    file = tmp_path / "evaluation" / "scenes.json"
    code, out, _ = run("teacher", "evaluate", TEACHERS / "digits-low", "--images", file, "--json")
    assert code == 0
    assert json.loads(out)["AP"] > 0
    assert "1 of 8 images cannot be used, so that all figures are too low" in caplog.text


def test_names_that_look_like_markup_are_shown_as_they_are(run: Run, tmp_path: Path) -> None:
    manifest = bundle.read(TEACHERS / "digits-low")
    vocabulary = ("[/bold]", "[red]", *manifest.vocabulary[2:])
    bundle.write(
        tmp_path / "odd",
        name="odd",
        adapter=manifest.adapter,
        vocabulary=vocabulary,
        input=manifest.input,
        output=manifest.output,
        files={name: TEACHERS / "digits-low" / name for name in manifest.files},
        license="[link=https://example.org]free[/link]",
    )
    code, out, _ = run("teacher", "show", tmp_path / "odd")
    assert code == 0
    assert "[/bold], [red]" in out
    assert "[link=https://example.org]free[/link]" in out


def test_a_detector_for_another_runtime_is_told_at_once(run: Run, tmp_path: Path) -> None:
    shutil.copytree(TEACHERS / "digits-low", tmp_path / "odd")
    path = tmp_path / "odd" / "manifest.json"
    document = json.loads(path.read_text()) | {"adapter": "tensorrt"}
    del document["digest"]
    path.write_text(json.dumps(document))
    for command in (
        ("teacher", "show", tmp_path / "odd"),
        ("teacher", "add", tmp_path / "odd", "--name", "x"),
    ):
        code, _, err = run(*command)
        assert code == 2
        assert "adapter is 'tensorrt'" in err


def test_a_full_disk_is_told_before_any_server_is_started(
    run: Run, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.environment.MIN_FREE", 1 << 60)  # more than any disk of ours has
    code, out, err = run("compose", recipe_file)
    assert code == 2
    assert out == ""
    assert "no space left while writing" in err
    assert "DETCOMPOSE_HOME" in err


def test_doctor_finds_everything(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    checks = {check["check"]: check for check in json.loads(out)}
    assert code == 0
    assert checks["mmcv operators"]["value"] == "backed by torchvision"
    assert checks["torch"]["ok"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("teacher", "show", "nobody"), "there is no teacher 'nobody'"),
        (("compose", "nowhere.yaml"), "recipe nowhere.yaml does not exist"),
        (("predict", str(TEACHERS / "digits-low"), "x.jpg"), "nothing to produce"),
        (("predict", str(TEACHERS / "digits-low"), "x.jpg", "--json"), "x.jpg does not exist"),
        (("teacher", "add", "x.onnx", "--name", "x"), "x.onnx does not exist"),
        (("teacher", "add", str(TEACHERS), "--name", "x"), "is a folder, but no bundle"),
        (("evaluate", str(TEACHERS / "digits-low"), "--images", "x.json"), "x.json does not exist"),
        (("teacher", "add", "x.onnx", "--name", "X Y", "--classes", "c"), "cannot be a teacher's name"),
        (("train", "--name", "x", "--images", "x.json", "--architecture", "yolo"), "--architecture"),
        (("train", "--name", "x", "--images", "x.json", "--part", "3/2"), "is not a part"),
        (("train", "--name", "x", "--images", "x.json"), "x.json does not exist"),
        (("train", "--name", "x", "--images", "x.json", "--norm", "frozen"), "--norm: without a warm start"),
        (
            ("deploy", "--recompose", str(TEACHERS.parent / "recipe.yaml"), "--cron", "never"),
            "--cron 'never' is no time",
        ),
    ],
)
@pytest.mark.usefixtures("prefect_server")
def test_mistakes_are_two_lines_and_exit_code_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert message in err
    assert len(lines) <= 3
    assert "Traceback" not in err


def test_train_has_an_option_for_every_setting_of_a_student() -> None:
    options = inspect.signature(train.train).parameters
    assert set(options) >= set(StudentSettings.model_fields)
    # mosaics pay with labels, and a run of the default length
    differ = {
        name for name, field in StudentSettings.model_fields.items() if options[name].default != field.default
    }
    assert differ == {"augmentation"}


@pytest.mark.usefixtures("prefect_server")
def test_one_bad_image_is_reported_and_left_out(run: Run, scenes: Path, tmp_path: Path, home: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for file in sorted((scenes / "pool").glob("*.jpg"))[:3]:
        (pool / file.name).symlink_to(file)
    (pool / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe(scenes, images={"source": str(pool)}, evaluate=[])))
    code, out, _ = run("compose", recipe, "--json")
    assert code == 0
    assert json.loads(out)["images"] == {"images": 3, "quarantined": 1}
