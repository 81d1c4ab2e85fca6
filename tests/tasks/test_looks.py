"""Further looks by real small detectors: of digits, which a mirror changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composition import label_space as spaces
from composition.confirmation import overlaps
from composition.detections import Detections
from composition.fusion import Expert
from composition.zoom import SHARES, Zoom, can_show, is_steady
from tasks import ensemble, unanswered
from tasks.benchmark_speed import ENSEMBLE, measure_costs
from tasks.evaluate import compare_detectors, index_dataset, load_rows, run_on_dataset
from tasks.image_index import iter_index
from tasks.infer import GenerateSettings, load_all, run_teachers
from tasks.looks import find_looks, look_again, looking, without_zoom
from tasks.store import Artifact, Store
from tasks.teachers import Teacher
from tests.tasks.conftest import Digits

SETTINGS = GenerateSettings(shard_size=6)
FLIP = SETTINGS.model_copy(update={"augment": "flip"})
ZOOM = SETTINGS.model_copy(update={"augment": "zoom"})


def test_digits_are_not_looked_at_in_the_mirror(digits: Digits) -> None:
    found = find_looks(*digits.pool, SETTINGS)
    again = looking(digits.teachers, found)
    assert [teacher.mirrored for teacher in again] == [(), ()]
    told = json.loads(found.file("looks.json").read_text())["digits-low"]
    assert told["faithfulness"]["five"] < 0.6 < told["faithfulness"]["zero"]
    assert (told["zoom"], told["steadiness"]) == (None, {})
    assert find_looks(*digits.pool, SETTINGS) == found


def test_enlarged_parts_are_tried_out_on_demand(digits: Digits) -> None:
    settings = SETTINGS.model_copy(update={"augment": "all"})
    found = find_looks(*digits.pool, settings)
    told = json.loads(found.file("looks.json").read_text())
    for teacher in looking(digits.teachers, found):
        steadiness = told[teacher.name]["steadiness"]
        assert list(steadiness) == (["zoom60"] if teacher.zoom == "zoom60" else ["zoom60", "zoom75"])
        assert not teacher.zoom or is_steady(*steadiness[teacher.zoom])
        assert teacher.zoom or not is_steady(*steadiness["zoom75"])
    level = without_zoom(looking(digits.teachers, found))
    assert [teacher.zoom for teacher in level] == [None, None]


def test_who_looks_once_keeps_his_shards(digits: Digits) -> None:
    assert [teacher.further_looks for teacher in digits.teachers] == [(), ()]
    seen = look_again(run_teachers, digits.store, digits.teachers, digits.index, digits.shards, SETTINGS)
    assert seen == (digits.shards, digits.shards)


@pytest.mark.parametrize(("settings", "passes"), [(FLIP, 2), (ZOOM, 5)])
def test_all_looks_together_replace_the_shards(
    digits: Digits, settings: GenerateSettings, passes: int
) -> None:
    again = looking(digits.teachers, find_looks(*digits.pool, settings))
    assert [teacher.passes for teacher in again] == [passes, passes]
    assert [teacher.looking_once for teacher in again] == list(digits.teachers)
    arguments = run_teachers, digits.store, again, digits.index, digits.shards, settings
    level, seen = look_again(*arguments)
    assert look_again(*arguments) == (level, seen)
    assert level == (digits.shards if settings is ZOOM else seen)
    for teacher in digits.teachers:
        assert len(seen[teacher.name]) == len(digits.shards[teacher.name])
        found, once = load_all(seen[teacher.name]), load_all(digits.shards[teacher.name])
        assert set(found.image_id.tolist()) == set(once.image_id.tolist())
        assert np.bincount(found.image_id).max() <= settings.max_detections
        # the mirror shows every box that the first look shows
        assert settings is ZOOM or np.isfinite(found.spread).all()
        # zeros look the same in the mirror, and sure ones are found again
        if "zero" in teacher.manifest.vocabulary:
            sure = (found.score > 0.8) & (found.class_id == teacher.manifest.vocabulary.index("zero"))
            assert sure.any()
            assert np.nanmedian(found.spread[sure]) < 0.2


@pytest.mark.parametrize("look", ["zoom60", "zoom75"])
def test_enlarged_objects_are_found_where_they_are(digits: Digits, look: Zoom) -> None:
    enlarged = run_teachers(digits.store, digits.teachers, digits.index, ZOOM, look)
    sizes = {record.image_id: (record.width, record.height) for record in iter_index(digits.index)}
    for name, shards in enlarged.items():
        once, again = load_all(digits.shards[name]), load_all(shards)
        sure = once[once.score > 0.7]
        shown = can_show(
            sure.boxes, np.array([sizes[image] for image in sure.image_id.tolist()]), SHARES[look]
        )
        assert shown.sum() > 10
        assert np.mean(overlaps(sure[shown], again) > 0.6) > 0.8


def test_images_without_an_answer_in_the_mirror_are_seen_once(digits: Digits) -> None:
    teacher = looking(digits.teachers, find_looks(*digits.pool, FLIP))[0]
    first = digits.shards[teacher.name][0]
    mirrored = run_teachers(digits.store, [teacher], digits.index, FLIP, "mirror")[teacher.name]
    rows = load_all([first])
    lost, silent = np.unique(rows.image_id)[:2].tolist()

    def with_silence(shard: Artifact, image: int) -> Artifact:
        """The shard, as if the teacher had not answered for an image."""
        with digits.store.write("detections", f"{shard.digest[:50]}{image:014}", {}) as draft:
            import pyarrow.parquet as pq

            from composition import detections as table

            found = load_all([shard])
            pq.write_table(table.to_arrow(found[found.image_id != image]), draft.file("detections.parquet"))
            unanswered.write({image: "HTTP 422"}, draft.file)
            draft.counts = {**shard.counts, "unanswered": 1}
        return draft.artifact

    shards = {teacher.name: [with_silence(first, silent), *digits.shards[teacher.name][1:]]}
    answers = {teacher.name: [with_silence(mirrored[0], lost), *mirrored[1:]]}
    seen = look_again(lambda *_, **__: answers, digits.store, [teacher], digits.index, shards, FLIP).all
    merged = {teacher.name: seen[teacher.name][:1]}
    found = load_all(merged[teacher.name])
    once = found[found.image_id == lost]
    assert once.score.tolist() == rows[rows.image_id == lost].score.tolist()
    assert not (found.image_id == silent).any()
    assert unanswered.images_of(merged) == {teacher.name: [silent]}


def test_a_service_is_not_asked_for_more(digits: Digits) -> None:
    """Each look costs a request; nobody is at this address, so that a request would fail."""
    service = replace(
        digits.teachers[0],
        manifest=digits.teachers[0].manifest.model_copy(update={"adapter": "http"}),
        folder=Path("/none"),
    )
    for settings in (SETTINGS, FLIP, ZOOM):
        found = find_looks(digits.store, [service], digits.index, digits.shards, settings)
        assert looking([service], found)[0].further_looks == ()


def test_an_ensemble_tries_looks_on_a_few_images(digits: Digits) -> None:
    assert [one.mirrored for one in ensemble.with_looks(digits.store, digits.teachers, digits.scenes, 8)] == [
        (),
        (),
    ]
    again = ensemble.with_looks(digits.store, digits.teachers, digits.scenes, 8, "flip")
    index = index_dataset(digits.store, digits.scenes)
    both, one = (
        run_on_dataset(digits.store, teacher, digits.scenes, index)
        for teacher in (again[0], digits.teachers[0])
    )
    assert np.isfinite(both.spread).all()
    assert np.isnan(one.spread).all()


def test_who_looks_once_is_measured_once(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble is shown beside its members, who are the same where they look once."""
    looks: list[tuple[str, bool]] = []

    def counted(store: Store, one: Teacher, *rest: Any) -> Detections:
        looks.append((one.name, bool(one.further_looks)))
        return run_on_dataset(store, one, *rest)

    monkeypatch.setattr(ensemble, "run_on_dataset", counted)
    space = spaces.build({one.name: one.manifest.vocabulary for one in digits.teachers})
    again = [digits.teachers[0], replace(digits.teachers[1], mirrored=(0,))]
    result = ensemble.evaluate_ensemble(digits.store, again, space, digits.scenes, Expert())
    assert looks == [("digits-low", False), ("digits-high", False), ("digits-high", True)]
    assert set(result.teachers) == {"digits-low", "digits-high"}


def test_a_comparison_gives_further_looks_to_the_fuser_alone(digits: Digits) -> None:
    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in digits.teachers})
    again = ensemble.with_looks(digits.store, digits.teachers, digits.scenes, 8, "flip")
    plain, both = (
        {
            (row["name"], row["scope"]): row["AP"]
            for row in load_rows(
                compare_detectors(digits.store, "x", digits.scenes, looks, [], space, Expert())
            )
        }
        for looks in (digits.teachers, again)
    )
    assert plain.pop(("ensemble (expert)", "all")) != both.pop(("ensemble (expert)", "all"))
    assert plain == both
    costs = measure_costs(digits.store, digits.scenes, again, [], space, Expert())
    alone = sum(costs[teacher.name].single.median for teacher in digits.teachers)
    assert costs[ENSEMBLE].single.median > 2 * alone
