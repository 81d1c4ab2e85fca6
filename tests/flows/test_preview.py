"""`preview` on real detectors: what it runs, what it takes from the store, and what it draws."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition.errors import UserError
from composition.pseudo_labels import IGNORE
from flows.estimate import estimate_labels
from flows.plan import make_label_plan
from flows.preview import preview
from flows.recipe import load_recipe
from tasks.home import Home
from tasks.preview_drawing import COLORS, OTHER, colors_of
from tasks.preview_page import draw, write_page, write_pictures
from tests.flows.conftest import Run


def stamps(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (home / "store").rglob("manifest.json")}


def test_a_pool_that_nobody_has_labelled_costs_inference_on_the_images_shown_alone(
    home: Path, recipe_file: Path, tmp_path: Path
) -> None:
    made = preview(load_recipe(recipe_file), Home.default(), 3)
    assert not made.whole
    assert (len(made.images), made.pool) == (3, 24)
    shards = [
        json.loads(path.read_text()) for path in (home / "store" / "detections").glob("*/manifest.json")
    ]
    assert {shard["counts"]["images"] for shard in shards} == {3}
    for image in made.images:
        assert set(image.teachers) == {"digits-low", "digits-high"}
        rows = image.labels
        assert len(image.filtered) <= len(image.fused)
        assert len(image.positive) + len(image.ignored) == len(rows)
        assert len(image.fused) <= len(rows) + len(image.filtered)
        assert np.all(image.ignored.kind == IGNORE)

    drawn = draw(made, 0.25)
    assert [panel.title for panel in drawn.rows[0].panels] == [
        "digits-low",
        "digits-high",
        "fused",
        "pseudo-labels",
    ]
    (page,) = write_page(drawn, tmp_path / "out")
    text = page.read_text()
    assert text.count("<img ") == 3 * 4 + len(drawn.sheets)
    assert not re.search(r'(?:src|href)="(?!data:)', text), "one file, nothing beside it"
    colors = colors_of(made.images, made.space)
    assert set(colors) <= {*COLORS, OTHER}
    assert len([color for color in colors if color == OTHER]) == len(made.space.classes) - len(COLORS)

    files = write_pictures(drawn, tmp_path / "png")
    assert len(files) == 3 + len(drawn.sheets)
    with Image.open(files[0]) as picture:
        assert picture.width > 4 * 600


def test_a_pool_that_is_labelled_is_shown_from_the_store(home: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    planned = estimate_labels(Home.default(), make_label_plan(recipe, Home.default()))
    assert planned["missing"] == {"digits-low": 24, "digits-high": 24}
    assert planned["inference_seconds"] > 0
    plan = make_label_plan(recipe, Home.default())
    asked = tuple(
        replace(teacher, manifest=teacher.manifest.model_copy(update={"adapter": "http"}))
        for teacher in plan.teachers
    )
    # services are asked again to calibrate only, and not timed: it would cost requests
    remote = estimate_labels(Home.default(), replace(plan, teachers=asked))
    assert remote["text"]["inference"] == "48 requests of digits-low and 48 requests of digits-high"
    assert not (home / "store").exists(), "a plan runs nothing"
    everything = preview(recipe, Home.default(), 24)
    assert estimate_labels(Home.default(), make_label_plan(recipe, Home.default()))["inference_seconds"] == 0
    before = stamps(home)
    made = preview(recipe, Home.default(), 4, "six")
    assert made.whole
    assert stamps(home) == before, "nothing is run again"
    assert 1 <= len(made.images) <= 4
    six = made.space.classes.index("six")
    assert all(six in image.labels.class_id for image in made.images)
    same = {image.record.path: image for image in everything.images}
    for image in made.images:
        np.testing.assert_array_equal(image.labels.boxes, same[image.record.path].labels.boxes)
    (only,) = draw(made, 0.25, "six").sheets
    assert only.name == "six"
    with pytest.raises(UserError, match="sixx"):
        preview(recipe, Home.default(), 4, "sixx")


def test_a_pool_that_was_looked_at_once_is_not_shown_again_for_a_few_pictures(
    home: Path, recipe_file: Path
) -> None:
    """It was labelled, but by a recipe that does not look there: the others may be many."""
    recipe = load_recipe(recipe_file)
    plain, flipped = (
        recipe.model_copy(update={"generate": recipe.generate.model_copy(update={"augment": augment})})
        for augment in ("none", "flip")
    )
    preview(plain, Home.default(), 24)
    assert preview(plain, Home.default(), 3).whole
    few = preview(flipped, Home.default(), 3)
    assert not few.whole
    assert len(few.images) == 3
    preview(flipped, Home.default(), 24)
    assert preview(flipped, Home.default(), 3).whole


def test_the_command_writes_pictures(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "preview", recipe_file, "--images-shown", "1", "--format", "png", "--out", tmp_path / "p", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert not found["whole_pool"]
    assert all(Path(file).is_file() for file in found["files"])
