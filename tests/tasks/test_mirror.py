"""Looking in the mirror, by real small detectors: digits, which it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composition import label_space as spaces
from composition.detections import Detections
from composition.fusion import Expert
from tasks import ensemble, unanswered
from tasks.benchmark_speed import ENSEMBLE, measure_costs
from tasks.evaluate import compare_detectors, index_dataset, load_rows, run_on_dataset
from tasks.infer import GenerateSettings, load_all, run_teachers
from tasks.mirror import find_mirrors, in_the_mirror, merge_shards
from tasks.store import Artifact, Store
from tasks.teachers import Teacher
from tests.tasks.conftest import Digits

SETTINGS = GenerateSettings(shard_size=6)
FLIP = SETTINGS.model_copy(update={"augment": "flip"})


def test_digits_are_not_looked_at_in_the_mirror(digits: Digits) -> None:
    found = find_mirrors(*digits.pool, SETTINGS)
    looking = in_the_mirror(digits.teachers, found)
    assert [teacher.mirrored for teacher in looking] == [(), ()]
    assert merge_shards(digits.store, looking, digits.shards, {}, SETTINGS) == digits.shards
    told = json.loads(found.file("mirror.json").read_text())["faithfulness"]
    assert told["digits-low"]["five"] < 0.6 < told["digits-low"]["zero"]
    assert find_mirrors(*digits.pool, SETTINGS) == found


def test_the_mean_of_both_looks_replaces_the_shards(digits: Digits) -> None:
    looking = in_the_mirror(digits.teachers, find_mirrors(*digits.pool, FLIP))
    assert all(len(one.mirrored) == len(one.manifest.vocabulary) for one in looking)
    mirrored = run_teachers(digits.store, looking, digits.index, FLIP, "mirror")
    merged = merge_shards(digits.store, looking, digits.shards, mirrored, FLIP)
    assert merge_shards(digits.store, looking, digits.shards, mirrored, FLIP) == merged
    for teacher in digits.teachers:
        assert len(merged[teacher.name]) == len(digits.shards[teacher.name])
        found = load_all(merged[teacher.name])
        assert np.isfinite(found.spread).all()
        # zeros look the same in the mirror, and sure ones are found again
        if "zero" in teacher.manifest.vocabulary:
            sure = (found.score > 0.8) & (found.class_id == teacher.manifest.vocabulary.index("zero"))
            assert sure.any()
            assert np.median(found.spread[sure]) < 0.2
        assert np.bincount(found.image_id).max() <= FLIP.max_detections


def test_images_without_an_answer_in_the_mirror_are_seen_once(digits: Digits) -> None:
    teacher = in_the_mirror(digits.teachers, find_mirrors(*digits.pool, FLIP))[0]
    first, mirrored = (
        digits.shards[teacher.name][0],
        run_teachers(digits.store, [teacher], digits.index, FLIP, "mirror"),
    )
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

    pair = (
        {teacher.name: [with_silence(first, silent)]},
        {teacher.name: [with_silence(mirrored[teacher.name][0], lost)]},
    )
    merged = merge_shards(digits.store, [teacher], *pair, FLIP)
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
    for settings in (SETTINGS, FLIP):
        looking = in_the_mirror(
            [service], find_mirrors(digits.store, [service], digits.index, digits.shards, settings)
        )
        assert looking[0].mirrored == ()


def test_an_ensemble_tries_the_mirror_on_a_few_images(digits: Digits) -> None:
    assert [
        one.mirrored for one in ensemble.with_mirrors(digits.store, digits.teachers, digits.scenes, 8)
    ] == [(), ()]
    looking = ensemble.with_mirrors(digits.store, digits.teachers, digits.scenes, 8, "flip")
    index = index_dataset(digits.store, digits.scenes)
    both, one = (
        run_on_dataset(digits.store, teacher, digits.scenes, index)
        for teacher in (looking[0], digits.teachers[0])
    )
    assert np.isfinite(both.spread).all()
    assert np.isnan(one.spread).all()


def test_who_does_not_look_in_the_mirror_is_looked_at_once(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ensemble is shown beside its members, who are the same where none has a mirror."""
    looks: list[tuple[str, bool]] = []

    def counted(store: Store, one: Teacher, *rest: Any) -> Detections:
        looks.append((one.name, bool(one.mirrored)))
        return run_on_dataset(store, one, *rest)

    monkeypatch.setattr(ensemble, "run_on_dataset", counted)
    space = spaces.build({one.name: one.manifest.vocabulary for one in digits.teachers})
    looking = [digits.teachers[0], replace(digits.teachers[1], mirrored=(0,))]
    result = ensemble.evaluate_ensemble(digits.store, looking, space, digits.scenes, Expert())
    assert looks == [("digits-low", False), ("digits-high", False), ("digits-high", True)]
    assert set(result.teachers) == {"digits-low", "digits-high"}


def test_a_comparison_gives_the_mirror_to_the_fuser_alone(digits: Digits) -> None:
    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in digits.teachers})
    looking = ensemble.with_mirrors(digits.store, digits.teachers, digits.scenes, 8, "flip")
    plain, both = (
        {
            (row["name"], row["scope"]): row["AP"]
            for row in load_rows(
                compare_detectors(digits.store, "x", digits.scenes, looks, [], space, Expert())
            )
        }
        for looks in (digits.teachers, looking)
    )
    assert plain.pop(("ensemble (expert)", "all")) != both.pop(("ensemble (expert)", "all"))
    assert plain == both
    costs = measure_costs(digits.store, digits.scenes, looking, [], space, Expert())
    alone = sum(costs[teacher.name].single.median for teacher in digits.teachers)
    assert costs[ENSEMBLE].single.median > 2 * alone
