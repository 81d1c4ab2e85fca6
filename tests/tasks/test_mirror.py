"""Looking in the mirror, by real small detectors: digits, which it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composition import label_space as spaces
from composition.fusion import Expert
from demo.scenes import make_scenes
from tasks import ensemble, unanswered
from tasks import teachers as registry
from tasks.benchmark_speed import ENSEMBLE, measure_costs
from tasks.evaluate import Dataset, compare_detectors, index_dataset, load_dataset, load_rows, run_on_dataset
from tasks.home import Home
from tasks.image_index import build_index, list_images
from tasks.infer import GenerateSettings, load_all, run_teachers
from tasks.mirror import find_mirrors, in_the_mirror, merge_shards
from tasks.store import Artifact, Store
from tasks.teachers import Teacher

BUNDLES = Path(__file__).resolve().parents[2] / "demo" / "teachers"
SETTINGS = GenerateSettings(shard_size=6)
FLIP = SETTINGS.model_copy(update={"augment": "flip"})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, images=16, seed=3, part="evaluation")
    return load_dataset(folder / "scenes.json")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, ...]:
    home = Home(tmp_path_factory.mktemp("home"))
    return tuple(registry.find(home, str(BUNDLES / name)) for name in ("digits-low", "digits-high"))


@pytest.fixture(scope="module")
def index(store: Store, scenes: Dataset) -> Artifact:
    return build_index(store, list_images(scenes.root))


@pytest.fixture(scope="module")
def shards(store: Store, teachers: tuple[Teacher, ...], index: Artifact) -> dict[str, list[Artifact]]:
    return run_teachers(store, teachers, index, SETTINGS)


def test_digits_are_not_looked_at_in_the_mirror(
    store: Store, teachers: tuple[Teacher, ...], index: Artifact, shards: dict[str, list[Artifact]]
) -> None:
    found = find_mirrors(store, teachers, index, shards, SETTINGS)
    looking = in_the_mirror(teachers, found)
    assert [teacher.mirrored for teacher in looking] == [(), ()]
    assert merge_shards(store, looking, shards, {}, SETTINGS) == shards
    told = json.loads(found.file("mirror.json").read_text())["faithfulness"]
    assert told["digits-low"]["five"] < 0.6 < told["digits-low"]["zero"]
    assert find_mirrors(store, teachers, index, shards, SETTINGS) == found


def test_the_mean_of_both_looks_replaces_the_shards(
    store: Store, teachers: tuple[Teacher, ...], index: Artifact, shards: dict[str, list[Artifact]]
) -> None:
    looking = in_the_mirror(teachers, find_mirrors(store, teachers, index, shards, FLIP))
    assert [len(teacher.mirrored) for teacher in looking] == [len(t.manifest.vocabulary) for t in teachers]
    mirrored = run_teachers(store, looking, index, FLIP, "mirror")
    merged = merge_shards(store, looking, shards, mirrored, FLIP)
    assert merge_shards(store, looking, shards, mirrored, FLIP) == merged
    for teacher in teachers:
        assert len(merged[teacher.name]) == len(shards[teacher.name])
        found = load_all(merged[teacher.name])
        assert np.isfinite(found.spread).all()
        # zeros look the same in the mirror, and sure ones are found again
        if "zero" in teacher.manifest.vocabulary:
            sure = (found.score > 0.8) & (found.class_id == teacher.manifest.vocabulary.index("zero"))
            assert sure.any()
            assert np.median(found.spread[sure]) < 0.2
        assert np.bincount(found.image_id).max() <= FLIP.max_detections


def test_images_without_an_answer_in_the_mirror_are_seen_once(
    store: Store, teachers: tuple[Teacher, ...], index: Artifact, shards: dict[str, list[Artifact]]
) -> None:
    teacher = in_the_mirror(teachers, find_mirrors(store, teachers, index, shards, FLIP))[0]
    first, mirrored = shards[teacher.name][0], run_teachers(store, [teacher], index, FLIP, "mirror")
    rows = load_all([first])
    lost, silent = np.unique(rows.image_id)[:2].tolist()

    def with_silence(shard: Artifact, image: int) -> Artifact:
        """The shard, as if the teacher had not answered for an image."""
        with store.write("detections", f"{shard.digest[:50]}{image:014}", {}) as draft:
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
    merged = merge_shards(store, [teacher], *pair, FLIP)
    found = load_all(merged[teacher.name])
    once = found[found.image_id == lost]
    assert once.score.tolist() == rows[rows.image_id == lost].score.tolist()
    assert not (found.image_id == silent).any()
    assert unanswered.images_of(merged) == {teacher.name: [silent]}


def test_a_service_is_not_asked_for_more(
    store: Store, teachers: tuple[Teacher, ...], index: Artifact, shards: dict[str, list[Artifact]]
) -> None:
    """Each look costs a request; nobody is at this address, so that a request would fail."""
    service = replace(
        teachers[0],
        manifest=teachers[0].manifest.model_copy(update={"adapter": "http"}),
        folder=Path("/none"),
    )
    for settings in (SETTINGS, FLIP):
        looking = in_the_mirror([service], find_mirrors(store, [service], index, shards, settings))
        assert looking[0].mirrored == ()


def test_an_ensemble_tries_the_mirror_on_a_few_images(
    store: Store, teachers: tuple[Teacher, ...], scenes: Dataset
) -> None:
    assert [one.mirrored for one in ensemble.with_mirrors(store, teachers, scenes, 8)] == [(), ()]
    looking = ensemble.with_mirrors(store, teachers, scenes, 8, "flip")
    index = index_dataset(store, scenes)
    both, one = (run_on_dataset(store, teacher, scenes, index) for teacher in (looking[0], teachers[0]))
    assert np.isfinite(both.spread).all()
    assert np.isnan(one.spread).all()


def test_a_comparison_gives_the_mirror_to_the_fuser_alone(
    store: Store, teachers: tuple[Teacher, ...], scenes: Dataset
) -> None:
    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in teachers})
    looking = ensemble.with_mirrors(store, teachers, scenes, 8, "flip")
    plain, both = (
        {
            (row["name"], row["scope"]): row["AP"]
            for row in load_rows(compare_detectors(store, "x", scenes, looks, [], space, Expert()))
        }
        for looks in (teachers, looking)
    )
    assert plain.pop(("ensemble (expert)", "all")) != both.pop(("ensemble (expert)", "all"))
    assert plain == both
    costs = measure_costs(store, scenes, looking, [], space, Expert())
    alone = sum(costs[teacher.name].single.median for teacher in teachers)
    assert costs[ENSEMBLE].single.median > 2 * alone
