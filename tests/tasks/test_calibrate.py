"""Calibration on labels and on the pool, by real small detectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composition import label_space as spaces
from composition.errors import UserError
from composition.fusion import Expert, Wbf
from composition.label_space import LabelSpace
from tasks.calibrate import calibrate_fuser, load_fuser, pool_tables
from tasks.evaluate import load_dataset
from tasks.image_index import pool_sample
from tasks.infer import GenerateSettings, shard_key
from tasks.store import Artifact
from tests.tasks.conftest import Digits
from tests.tasks.pools import make_pool


@pytest.fixture(scope="module")
def space(digits: Digits) -> LabelSpace:
    return spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in digits.teachers})


def test_calibration_on_labels(digits: Digits, space: LabelSpace) -> None:
    def fit(**changes: Any) -> Artifact:
        arguments = {
            **{"index": digits.index, "shards": digits.shards, "space": space, "fuser": Expert(0.55)},
            **{"method": "labels", "dataset": digits.scenes, "images": 12, "floor": 0.05},
            **{"generate": GenerateSettings()},
            **changes,
        }
        return calibrate_fuser(digits.store, digits.teachers, **arguments)

    first = fit()
    fuser = load_fuser(first)
    assert isinstance(fuser, Expert)
    assert fuser.iou == 0.55
    assert fuser.expertise is not None
    assert len(fuser.expertise) == 2
    assert fuser.coverage is not None
    assert fuser.coverage[space.classes.index("zero")] == (True, False)
    assert first.counts["images"] == 12
    assert first.counts["objects"] >= 20
    assert fit() == first
    # what is learned hangs on the labels, how many, the floor and the fuser; not on the pool
    assert fit(shards={}) == first
    others = [fit(images=10), fit(floor=0.3), fit(fuser=Expert()), fit(method="none")]
    assert len({first.digest, *(one.digest for one in others)}) == 5
    assert load_fuser(others[-1]) == Expert(0.55)
    assert load_fuser(fit(fuser=Wbf(0.4), method="none")) == Wbf(0.4)


def test_labels_without_a_known_class_are_an_error(digits: Digits, space: LabelSpace, tmp_path: Path) -> None:
    document = json.loads(digits.scenes.source.read_text())
    for category in document["categories"]:
        category["name"] = f"letter {category['id']}"
    (tmp_path / "letters.json").write_text(json.dumps(document))
    letters = load_dataset(tmp_path / "letters.json", digits.scenes.root)
    with pytest.raises(UserError, match=r"letters\.json has no class of the label space"):
        calibrate_fuser(*digits.pool, space, Expert(), "labels", letters, 16, 0.05, GenerateSettings())


def test_calibration_without_labels_looks_at_the_pool(digits: Digits, space: LabelSpace) -> None:
    made = calibrate_fuser(*digits.pool, space, Expert(), "label-free", None, 1, 0.05, GenerateSettings())
    fuser = load_fuser(made)
    assert isinstance(fuser, Expert)
    assert fuser.expertise is not None
    assert all(one.silence < 0 for one in fuser.expertise)
    assert made.counts["images"] == 16
    tables = pool_tables(digits.shards, space, np.array([0, 5, 7]), 0.2)
    for table in tables:
        assert set(table.image_id.tolist()) <= {0, 5, 7}
        assert table.score.min() >= np.float32(0.2)
    fewer = {name: parts[:2] for name, parts in digits.shards.items()}
    other = calibrate_fuser(
        digits.store,
        digits.teachers,
        digits.index,
        fewer,
        space,
        Expert(),
        "label-free",
        None,
        1,
        0.05,
        GenerateSettings(),
    )
    assert other.digest != made.digest


def test_the_sample_of_the_pool_is_bounded_and_knows_no_names(digits: Digits, space: LabelSpace) -> None:
    index = make_pool(digits.store, space, 300, 300, boxes=1).index
    renamed = make_pool(digits.store, space, 300, 300, boxes=1, prefix="other").index
    sample = pool_sample(index, 40)
    assert len(set(sample.tolist())) == 40
    assert sample.tolist() == sorted(sample.tolist())
    assert sample.tolist() == pool_sample(renamed, 40).tolist()
    assert set(sample.tolist()) <= set(pool_sample(index, 80).tolist())
    assert sample.max() > 200
    assert len(pool_sample(index)) == 300


def test_a_look_has_its_key_whatever_else_is_looked_at(digits: Digits) -> None:
    plain = GenerateSettings()
    assert plain.decisive() == {"score_floor": 0.05, "max_detections": 100}
    flipped = plain.model_copy(update={"augment": "flip"})
    assert shard_key(digits.teachers[0], [], plain) == shard_key(digits.teachers[0], [], flipped)
    assert shard_key(digits.teachers[0], [], plain) != shard_key(digits.teachers[0], [], plain, "mirror")
