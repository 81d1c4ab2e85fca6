"""The two passes over the pool: resumable, streamed, and the same however the shards are cut."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from composition import label_space as spaces
from composition import pseudo_labels as pseudo
from composition.filtering.labels import SHARE_EXPONENT
from composition.fusion import Expert, Fuser, Nms, SoftNms, Wbf
from composition.fusion.expert import Expertise
from composition.label_space import Entry, LabelSpace
from composition.pseudo_labels import IGNORE, POSITIVE
from tasks import fusers
from tasks.aggregate import fuse_answered, fuse_shards, load_fused, load_regions
from tasks.image_index import iter_index, load_index
from tasks.infer import load_detections
from tasks.label import COCO_FILE, LABELS_FILE, UNSPOKEN_FILE, iter_labels, label_pool, load_labels
from tasks.method_settings import FilterSettings
from tasks.store import Artifact, Store
from tasks.thresholds import find_thresholds, load_thresholds, score_exponent
from tests.tasks.pools import Pool, make_pool

SPACE = LabelSpace(
    ("vehicle", "car", "bus", "person"),
    {
        "fine": (Entry("car", "same", "car"), Entry("bus", "same", "bus"), Entry("person", "same", "person")),
        "coarse": (Entry("vehicle", "same", "vehicle"), Entry("human", "same", "person")),
        "other": (Entry("car", "same", "car"), Entry("pedestrian", "narrower", "person")),
    },
    {"car": "vehicle", "bus": "vehicle"},
)
CALIBRATED = Expert(
    0.6,
    tuple(Expertise((0.0, 1.0), (0.0, 0.9), 2.0 + t, 0.3, 0.2, -0.4) for t in range(3)),
    ((True, True, True), (True, False, True), (True, False, False), (True, True, True)),
    -0.3,
    0.7,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(
    store: Store, pool: Pool, fuser: Fuser = CALIBRATED, space: LabelSpace = SPACE, **filtering: Any
) -> tuple[list[Artifact], Artifact, Artifact]:
    settings = FilterSettings(**filtering)
    fused = fuse_shards(store, pool.shards, space, fuser, settings.floor)
    thresholds = find_thresholds(
        store, [], fused, space, fuser, settings, settings.chosen(False, "none"), None, 0, settings.floor
    )
    return fused, thresholds, label_pool(store, pool.index, fused, space, settings, thresholds)


def as_rows(labels: pseudo.PseudoLabels) -> list[Any]:
    columns = (labels.image_id, labels.boxes, labels.class_id, labels.weight, labels.kind, labels.teachers)
    return [column.tolist() for column in columns]


@pytest.mark.parametrize("fuser", [CALIBRATED, Expert(), Nms(), Wbf(), SoftNms()], ids=lambda f: f.name)
@pytest.mark.parametrize("rule", ["fixed", "mixture", "expected_count"])
def test_where_shards_end_changes_nothing(store: Store, fuser: Fuser, rule: str) -> None:
    filtering = {"rule": rule, "keep": 0.5, "minimum_size": 25}
    found = []
    for size in (60, 7, 25):
        fused, thresholds, labels = run(store, make_pool(store, SPACE, 60, size), fuser, **filtering)
        coco = json.loads(labels.file(COCO_FILE).read_text())
        found.append((as_rows(load_labels(labels)), load_thresholds(thresholds).to_dict(), coco))
        assert len(fused) == -(-60 // size)
        assert labels.counts["images"] == 60
        # nothing is lost silently: every box and region is accounted for
        boxes = sum(shard.counts["boxes"] + shard.counts["regions"] for shard in fused)
        verdicts = ("labels", "ignore_regions", "covered", "background")
        assert sum(labels.counts[verdict] for verdict in verdicts) == boxes
        assert labels.counts["labels"] > 0
        assert labels.counts["ignore_regions"] > 0
    assert found[0] == found[1] == found[2]


def test_both_files_hold_the_same_labels(store: Store) -> None:
    pool = make_pool(store, SPACE, 20, 7)
    _, _, labels = run(store, pool)
    whole = load_labels(labels)
    assert as_rows(pseudo.concatenate(list(iter_labels(labels)))) == as_rows(whole)
    images = [
        {"id": r.image_id, "file_name": r.path, "width": r.width, "height": r.height}
        for r in load_index(pool.index)
    ]
    text = labels.file(COCO_FILE).read_text()
    assert json.loads(text) == pseudo.to_coco(
        whole, images, SPACE.classes, {"description": "pseudo-labels of detcompose"}
    )
    file = pq.ParquetFile(labels.file(LABELS_FILE))
    assert file.num_row_groups == 3
    assert pseudo.teacher_names(file.read()) == ("fine", "coarse", "other")
    file.close()
    assert pq.read_table(labels.file(UNSPOKEN_FILE)).num_rows == 0
    assert (whole.kind == POSITIVE).sum() == labels.counts["labels"]
    assert (whole.kind == IGNORE).sum() == labels.counts["ignore_regions"]


def test_coarse_boxes_leave_regions_open(store: Store) -> None:
    fused, _, _ = run(store, make_pool(store, SPACE, 10, 10))
    regions = load_regions(fused[0])
    # coarse sees vehicles and cannot tell cars from buses
    assert set(regions.detections.class_id.tolist()) == {1, 2}
    assert set(regions.teachers.tolist()) == {2}
    boxes = load_fused(fused[0])
    assert np.isnan(boxes.detections.spread).all()


def test_what_is_done_is_not_done_again(store: Store) -> None:
    pool = make_pool(store, SPACE, 30, 10)
    fused, _, labels = run(store, pool, keep=0.5)

    def stamps() -> list[int]:
        return [shard.file("fused.parquet").stat().st_mtime_ns for shard in fused]

    before = stamps()
    again_fused, _, again = run(store, pool, keep=0.5)
    assert (again_fused, again) == (fused, labels)
    # a killed run goes on at the first missing shard
    shutil.rmtree(fused[1].folder)
    assert run(store, pool, keep=0.5)[0] == fused
    after = stamps()
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1] != before[1]
    # another threshold fuses nothing again, another fuser or floor does
    assert run(store, pool, keep=0.6)[0] == fused
    assert run(store, pool, keep=0.6)[2].digest != labels.digest
    assert run(store, pool, keep=0.5, floor=0.3)[0][0].digest != fused[0].digest
    assert run(store, pool, replace(CALIBRATED, bias=0.1), keep=0.5)[0][0].digest != fused[0].digest


def test_renamed_images_get_new_labels_files(store: Store) -> None:
    """The same pixels under other names: nothing is fused again, but the names are in the file."""
    one = run(store, make_pool(store, SPACE, 10, 10))
    other = run(store, make_pool(store, SPACE, 10, 10, prefix="renamed"))
    assert one[0] == other[0]
    assert one[2].digest != other[2].digest
    assert "renamed-0000003.jpg" in other[2].file(COCO_FILE).read_text()


def test_the_floor_keeps_weak_detections_out_of_fusion(store: Store) -> None:
    pool = make_pool(store, SPACE, 10, 10)
    low, high = (run(store, pool, Nms(), floor=floor)[0][0] for floor in (0.0, 0.5))
    assert load_fused(low).detections.score.min() < 0.5
    assert np.nanmin(load_fused(high).scores) >= 0.5
    assert load_regions(high).detections.score.min() >= 0.5


def test_thresholds_of_single_classes_come_from_the_recipe(store: Store) -> None:
    pool = make_pool(store, SPACE, 40, 20)
    own = {"car": 0.7, "bus": {"keep": 0.6, "ignore": 0.55}}
    _, thresholds, labels = run(store, pool, rule="mixture", per_class=own)
    chosen = load_thresholds(thresholds)
    assert chosen.keep[1:3].tolist() == [0.7, 0.6]
    assert chosen.ignore[1:3].tolist() == [0.35, 0.55]
    assert chosen.reason[1:3] == ("recipe", "recipe")
    assert chosen.decided.all()
    found = load_labels(labels)
    cars = found[(found.class_id == 1) & (found.kind == POSITIVE)]
    assert cars.weight.min() >= np.float32(0.7)


def test_a_class_without_boxes_falls_back_to_the_fixed_threshold(store: Store) -> None:
    space = LabelSpace(
        ("thing", "nothing"), {"one": (Entry("thing", "same", "thing"), Entry("none", "same", "nothing"))}
    )
    pool = make_pool(store, LabelSpace(("thing",), {"one": (Entry("thing", "same", "thing"),)}), 30, 30)
    _, thresholds, _ = run(store, pool, Nms(), space, rule="mixture", keep=0.45)
    chosen = load_thresholds(thresholds)
    assert (chosen.keep[1], chosen.ignore[1]) == (0.45, 0.225)
    assert thresholds.counts == {"classes": 2, "classes_by_fallback": 1}


def test_images_on_which_all_experts_failed_are_said_to_be_unspoken(store: Store) -> None:
    pool = make_pool(store, SPACE, 10, 5)
    settings = FilterSettings(keep=0.5)
    fused, thresholds, plain = run(store, pool, keep=0.5)
    failed = {"fine": [3, 4], "other": [4]}
    labels = label_pool(store, pool.index, fused, SPACE, settings, thresholds, failed)
    assert labels.digest != plain.digest
    pairs = pseudo.unspoken_from_arrow(pq.read_table(labels.file(UNSPOKEN_FILE)))
    # bus on both, car where both who know it failed; coarse spoke of vehicles and persons
    assert pairs.tolist() == [[3, 2], [4, 1], [4, 2]]
    images = {row["id"]: row for row in json.loads(labels.file(COCO_FILE).read_text())["images"]}
    assert images[3]["unspoken"] == [3]
    assert images[4]["unspoken"] == [2, 3]
    assert "unspoken" not in images[5]

    everybody = {name: [6] for name in SPACE.teachers}
    labels = label_pool(store, pool.index, fused, SPACE, settings, thresholds, everybody)
    ids = {row["id"] for row in json.loads(labels.file(COCO_FILE).read_text())["images"]}
    assert ids == set(range(10)) - {6}, "an image that nobody saw teaches nothing"


def test_silence_counts_against_a_box_only_where_the_teacher_has_spoken(store: Store) -> None:
    tables = [load_detections(parts[0]) for parts in make_pool(store, SPACE, 8, 8).shards.values()]
    tables = [
        spaces.map_detections(SPACE, name, rows) for name, rows in zip(SPACE.teachers, tables, strict=True)
    ]
    whole, sums = fuse_answered(tables, SPACE, CALIBRATED, 8, [(), (), ()])
    assert (whole.detections.score == CALIBRATED.fuse(tables).detections.score).all()

    cut = [tables[0], tables[1], tables[2][~np.isin(tables[2].image_id, [2, 5])]]
    silenced, _ = fuse_answered(cut, SPACE, CALIBRATED, 8, [(), (), ()])
    fused, others = fuse_answered(cut, SPACE, CALIBRATED, 8, [(), (), (2, 5)])
    assert (np.diff(fused.detections.image_id) >= 0).all()
    assert others.images == sums.images == 8
    elsewhere = ~np.isin(fused.detections.image_id, [2, 5])
    same = ~np.isin(whole.detections.image_id, [2, 5])
    assert (fused.detections.score[elsewhere] == whole.detections.score[same]).all()
    alone = (fused.scores[:, 2] != fused.scores[:, 2]) & ~elsewhere
    seen = np.isin(fused.detections.class_id, np.flatnonzero(spaces.coverage(SPACE)[:, 2]))
    rows = alone & seen
    assert rows.any()
    # its silence was held against them, for nothing
    assert (fused.detections.score[rows] > silenced.detections.score[rows]).all()


@pytest.mark.parametrize(
    "fuser", [CALIBRATED, Expert(), Nms(0.4), Wbf(weights=(1.0, 2.0)), SoftNms("linear")]
)
def test_fusers_are_kept_as_json(fuser: Fuser) -> None:
    assert fusers.from_json(json.loads(json.dumps(fusers.to_json(fuser)))) == fuser


def test_the_index_is_read_record_by_record(store: Store) -> None:
    index = make_pool(store, SPACE, 2500, 2500, boxes=1).index
    assert list(iter_index(index, batch=64)) == load_index(index)


def _peak(store: Store, pool: Pool) -> int:
    """Bytes of numpy and Python, and of Arrow, at the worst moment of both passes."""
    arrow = pa.proxy_memory_pool(pa.default_memory_pool())
    default = pa.default_memory_pool()
    pa.set_memory_pool(arrow)
    tracemalloc.start()
    try:
        run(store, pool)
        return tracemalloc.get_traced_memory()[1] + arrow.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(default)


def test_memory_does_not_grow_with_the_pool(store: Store) -> None:
    run(store, make_pool(store, SPACE, 50, 50, seed=9))  # compiles and imports everything
    peaks = [_peak(store, make_pool(store, SPACE, 50 * shards, 50, seed=shards)) for shards in (2, 16)]
    # the list of shards, their manifests and the sampled images are all that is left
    assert peaks[1] < 1.15 * peaks[0] + 200_000, peaks


def test_only_calibrated_scores_are_taken_for_shares() -> None:
    assert score_exponent(CALIBRATED) == SHARE_EXPONENT
    assert [score_exponent(fuser) for fuser in (Expert(), Nms(), Wbf(), SoftNms())] == [1.0] * 4
