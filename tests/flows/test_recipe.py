from __future__ import annotations

from pathlib import Path

import pytest

from composition.errors import UserError
from flows.recipe import load_recipe

GOOD = """\
name: traffic
teachers: [one, ./bundles/two]
images:
  source: pool
filter:
  threshold: 0.3
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
        ("threshold: 0.3", "treshold: 0.3", 6, "unknown key 'filter.treshold'"),
        ("threshold: 0.3", "threshold: high", 6, "filter.threshold: Input should be a valid number"),
        ("threshold: 0.3", "threshold: 1.5", 6, "less than or equal to 1"),
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
        load_recipe(_recipe(tmp_path, GOOD.replace("threshold", "treshold")))
    assert caught.value.way_out == "Did you mean 'threshold'?"


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
