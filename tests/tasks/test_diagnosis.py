"""The diagnosis of a composition: kept, made again to the byte, and the same however the shards are cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from tasks.diagnose import DIAGNOSIS_FILE
from tasks.diagnosis import diagnose_composition, load_diagnosis
from tasks.label import load_labels
from tasks.store import Artifact, Store
from tests.tasks.pools import Pool, make_pool
from tests.tasks.test_aggregate import SPACE, run


def _diagnose(store: Store, pool: Pool, *, keep: float = 0.5) -> tuple[Artifact, Artifact]:
    fused, thresholds, labels = run(store, pool, keep=keep)
    made = diagnose_composition(
        store,
        [],
        pool.shards,
        fused,
        SPACE,
        thresholds,
        labels,
        calibrated=True,
        floor=0.05,
        score_floor=0.05,
    )
    return made, labels


def test_a_lost_diagnosis_comes_back_to_the_byte(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    pool = make_pool(store, SPACE, images=12, shard_size=5)
    first, labels = _diagnose(store, pool)
    # the manifest says when it was made
    files = {path.name: path.read_bytes() for path in first.folder.iterdir() if path.name != "manifest.json"}
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert any(name.endswith(".png") for name in files)
    again, _ = _diagnose(store, pool)
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == stamps, "no work"
    shutil.rmtree(first.folder)
    rebuilt, _ = _diagnose(store, pool)
    # the manifest says when it was made
    assert {path.name: path.read_bytes() for path in rebuilt.folder.iterdir() if path.name in files} == files

    document = json.loads(rebuilt.file(DIAGNOSIS_FILE).read_text())
    assert load_diagnosis(rebuilt).to_dict() == document
    assert document["images"] == 12
    assert sum(one["positives"] for one in document["classes"]) == labels.counts["labels"]
    assert np.sum(document["agreement"]["asked"]) > 0
    other, fewer = _diagnose(store, pool, keep=0.8)
    assert other.digest != rebuilt.digest
    assert len(load_labels(fewer)) < len(load_labels(labels)) or fewer.counts != labels.counts


def test_the_cut_of_the_shards_changes_nothing(tmp_path: Path) -> None:
    documents = []
    for size in (3, 12):
        store = Store(tmp_path / str(size))
        made, _ = _diagnose(store, make_pool(store, SPACE, images=12, shard_size=size))
        documents.append(json.loads(made.file(DIAGNOSIS_FILE).read_text()))
    assert documents[0] == documents[1]
