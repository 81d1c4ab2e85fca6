from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from composition.errors import UserError
from composition.fusion import SoftNms
from flows.recipe import load_recipe
from tasks.method_settings import CalibrateSettings, Calibration, FilterSettings, FuseSettings

GOOD = """\
name: traffic
teachers: [one, ./bundles/two]
images:
  source: pool
filter:
  keep: 0.3
student:
  architecture: yolox_nano
  warm_start: bundle:one
evaluate:
  - name: val
    annotations: val.json
"""


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_relative_paths_count_from_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(_recipe(tmp_path, GOOD))
    assert recipe.images.source == tmp_path / "pool"
    assert recipe.evaluate[0].annotations == tmp_path / "val.json"
    assert recipe.teachers == ["one", str(tmp_path / "bundles" / "two")]
    assert recipe.student.warm_start == "bundle:one"
    assert recipe.generate.score_floor == 0.05


def test_variables_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("source: pool", "source: ${POOL:-somewhere}/a").replace("val.json", "${VAL}/v.json")
    monkeypatch.setenv("VAL", "/data")
    recipe = load_recipe(_recipe(tmp_path, text))
    assert recipe.images.source == tmp_path / "somewhere" / "a"
    assert recipe.evaluate[0].annotations == Path("/data/v.json")
    monkeypatch.delenv("VAL")
    with pytest.raises(UserError, match="the environment variable VAL is not set"):
        load_recipe(_recipe(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("keep: 0.3", "kep: 0.3", 6, "unknown key 'filter.kep'"),
        ("keep: 0.3", "keep: high", 6, "filter.keep: Input should be a valid number"),
        ("keep: 0.3", "keep: 1.5", 6, "less than or equal to 1"),
        ("keep: 0.3", "ignore: 0.3", 5, "filter: 'ignore' needs 'keep'"),
        ("keep: 0.3", "rule: fixed", 5, "filter: rule 'fixed' needs 'keep'"),
        ("keep: 0.3", "keep: 0.3\n  ignore: 0.4", 5, "filter: 'ignore' is 0.4, above 'keep'"),
        ("keep: 0.3", "per_class: {car: 1.5}", 5, "the threshold of 'car' is 1.5, not in [0, 1]"),
        ("keep: 0.3", "per_class: {car: {keep: 0.3, ignore: 0.4}}", 5, "'ignore' of 'car' is above"),
        ("keep: 0.3", "per_class: {car: high}", 6, "filter.per_class.car: Input should be a valid number"),
        ("keep: 0.3", "per_class: {car: {}}", 6, "'filter.per_class.car.keep' is missing"),
        (
            "student:",
            "label_space: {overrides: {one: {cat: {narower: 3}}}}\nstudent:",
            7,
            "label_space.overrides.one.cat.narower: Input should be a valid string",
        ),
        (
            "student:",
            "fuse: {method: mean}\nstudent:",
            7,
            "Input should be 'expert', 'nms', 'wbf' or 'soft_nms'",
        ),
        (
            "student:",
            "fuse: {sigma: 1}\nstudent:",
            7,
            "'sigma' is not a setting of expert; its settings: iou",
        ),
        (
            "student:",
            "fuse: {method: wbf, weights: [0]}\nstudent:",
            7,
            "wbf: weights [0.0] are not all positive",
        ),
        ("student:", "calibrate: {method: labels}\nstudent:", 7, "method 'labels' needs 'annotations'"),
        ("student:", "calibrate: {root: x}\nstudent:", 7, "'root' without 'annotations'"),
        ("name: traffic", "name: Traffic Lights", 1, "name: String should match"),
        ("images:\n  source: pool\n", "", 1, "'images' is missing"),
        ("  source: pool", "  root: pool", 3, "'images.source' is missing"),
        ("yolox_nano", "yolo_nano", 8, "there is no student architecture 'yolo_nano'"),
        ("bundle:one", "one", 9, "'one' is no warm start"),
        ("[one, ./bundles/two]", "[one, one]", 2, "teacher 'one' is named twice"),
        ("[one, ./bundles/two]", "one", 2, "teachers: Input should be a valid list"),
        ("  - name: val\n", "  - name: 1\n", 11, "evaluate.0.name: Input should be a valid string"),
        ("filter:", "images:", 5, "key 'images' was already given in line 3"),
        ("teachers: [one", "teachers: {one", 2, "not valid YAML"),
    ],
)
def test_errors_name_the_key_and_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in GOOD
    path = _recipe(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert caught.value.problem.startswith(f"{path}:{line}: ")
    assert message in caught.value.problem


def test_a_misspelt_key_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(_recipe(tmp_path, GOOD.replace("architecture", "architekture")))
    assert caught.value.way_out == "Did you mean 'architecture'?"


def test_a_misspelt_key_of_a_class_gets_a_suggestion(tmp_path: Path) -> None:
    """A value may be of several kinds: the one that was meant says what is wrong with it."""
    with pytest.raises(UserError) as caught:
        load_recipe(_recipe(tmp_path, GOOD.replace("keep: 0.3", "per_class: {car: {keeep: 0.3}}")))
    assert caught.value.problem.endswith(":6: unknown key 'filter.per_class.car.keeep'")
    assert caught.value.way_out == "Did you mean 'keep'?"


def test_a_path_of_a_teacher_may_begin_at_the_user_s_folder(tmp_path: Path) -> None:
    recipe = load_recipe(_recipe(tmp_path, GOOD.replace("./bundles/two", "~/two")))
    assert recipe.teachers == ["one", str(Path.home() / "two")]


def test_a_key_of_an_earlier_version_gets_its_new_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(_recipe(tmp_path, GOOD.replace("keep", "threshold")))
    assert caught.value.problem.endswith(":6: unknown key 'filter.threshold'")
    assert "filter.keep" in caught.value.way_out


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("", True),
        ("generate: {augment: none}", False),
        ("fuse: {method: wbf}", False),
        ("fuse: {method: wbf}\ngenerate: {augment: flip}", True),
        ("fuse: {method: nms}\ngenerate: {augment: zoom}", True),
        ("fuse: {method: nms}\ngenerate: {augment: all}", False),
        ("generate: {augment: all}", True),
    ],
)
def test_who_looks_again(text: str, again: bool, tmp_path: Path) -> None:
    """Stock fusers stay as they are known."""
    assert load_recipe(_recipe(tmp_path, GOOD + text)).looks_again is again


def test_a_yaml_with_all_that_the_method_has(tmp_path: Path) -> None:
    text = (
        GOOD
        + """\
label_space:
  classes: [vehicle, car, bus]
  parents: {car: vehicle, bus: vehicle}
  overrides:
    one: {thing: [car, bus], suv: {narrower: car}, lorry: {broader: [car, bus]}, banner: drop}
calibrate:
  annotations: few.json
  images: 50
fuse: {method: soft_nms, decay: linear, iou: 0.4}
generate: {augment: flip}
"""
    )
    recipe = load_recipe(_recipe(tmp_path, text))
    assert recipe.calibrate.annotations == tmp_path / "few.json"
    assert recipe.label_space.overrides["one"]["thing"] == ["car", "bus"]
    assert recipe.fuse.fuser() == SoftNms(decay="linear", iou=0.4)
    assert recipe.generate.augment == "flip"


@pytest.mark.parametrize(
    ("calibrate", "fuse", "chosen"),
    [
        ({}, {}, "label-free"),
        ({"annotations": "x"}, {}, "labels"),
        ({"annotations": "x", "method": "label-free"}, {}, "label-free"),
        ({"annotations": "x", "method": "none"}, {}, "none"),
        ({"annotations": "x"}, {"method": "wbf"}, "none"),
        ({}, {"method": "nms"}, "none"),
    ],
)
def test_what_calibration_is_chosen(calibrate: dict[str, Any], fuse: dict[str, Any], chosen: str) -> None:
    assert CalibrateSettings(**calibrate).chosen(FuseSettings(**fuse)) == chosen


def test_only_the_expert_can_be_calibrated() -> None:
    with pytest.raises(UserError, match="fuser wbf cannot be calibrated"):
        CalibrateSettings(method="label-free").chosen(FuseSettings(method="wbf"))


@pytest.mark.parametrize(
    ("settings", "labelled", "calibration", "chosen"),
    [
        ({}, False, "none", "expected_count"),
        ({}, True, "none", "expected_f"),
        ({}, False, "label-free", "expected_f"),
        ({"keep": 0.4}, True, "labels", "fixed"),
        ({"rule": "mixture"}, True, "labels", "mixture"),
        ({"rule": "fixed", "keep": 0.4}, False, "none", "fixed"),
    ],
)
def test_what_rule_is_chosen(
    settings: dict[str, Any], labelled: bool, calibration: Calibration, chosen: str
) -> None:
    assert FilterSettings(**settings).chosen(labelled, calibration) == chosen


def test_f_beta_needs_labels() -> None:
    with pytest.raises(UserError, match="f_beta needs labels"):
        FilterSettings(rule="f_beta").chosen(False, "none")


def test_every_teacher_has_a_weight_or_none_has() -> None:
    FuseSettings(method="wbf", weights=[1, 2]).check(2)
    with pytest.raises(UserError, match="2 weights for 3 teachers"):
        FuseSettings(method="wbf", weights=[1, 2]).check(3)


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("- a\n- b\n", "is a YAML mapping")])
def test_what_is_no_recipe_is_an_error(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_every_shipped_recipe_is_read(data_dir: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    recipes = [*root.glob("recipes/*.yaml"), root / "demo" / "recipe.yaml"]
    assert len(recipes) >= 3
    for path in recipes:
        recipe = load_recipe(path)
        assert recipe.teachers
