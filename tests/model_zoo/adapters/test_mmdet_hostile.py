"""A bundle may come from anybody: its config must not run or fetch anything."""

from __future__ import annotations

import json

import numpy as np
import pytest

from composition.errors import UserError
from tests.model_zoo.adapters.mmdet_bundles import forged, open_bundle, untrained


def at(*path, value):
    """Sets one entry of a whole config, deep down."""

    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


MARK = "touch {mark}"
HOSTILE = {
    "custom_imports": (
        at("custom_imports", value={"imports": ["antigravity"]}),
        "'custom_imports' would run code",
    ),
    "base": (at("_base_", value=["./evil.py"]), "'_base_' would run code"),
    "base inside": (at("model", "backbone", "_base_", value="evil.py"), r"model\.backbone\._base_"),
    "scope": (at("model", "backbone", "_scope_", value="antigravity"), r"model\.backbone\._scope_"),
    "call": (
        at("model", "backbone", value={"type": "os.system", "command": MARK}),
        r"model\.backbone\.type: 'os\.system'",
    ),
    "module": (
        at("model", "neck", "type", value="antigravity.FPN"),
        r"model\.neck\.type: 'antigravity\.FPN'",
    ),
    "unknown": (at("model", "neck", "type", value="antigravity"), r"model\.neck\.type: 'antigravity'"),
    "evaluated nms": (
        at("model", "test_cfg", "nms", "type", value="__import__('os').system('touch {mark}') or nms"),
        r"model\.test_cfg\.nms\.type",
    ),
    "in a list": (
        at("model", "neck", "plugins", value=[{"cfg": {"type": "os.system"}}]),
        r"plugins\[0\]\.cfg\.type",
    ),
    "no string": (at("model", "neck", "type", value=["FPN"]), r"model\.neck\.type: \['FPN'\]"),
    "distillation": (
        at(
            "model",
            value={"type": "LAD", "teacher_config": "evil.py", "data_preprocessor": {}, "test_cfg": {}},
        ),
        r"model\.type: 'LAD'",
    ),
    "language model": (
        at("model", "language_model", value={"type": "BertModel", "name": "x/y"}),
        "'BertModel'",
    ),
    "evaluated in tracking": (
        at("model", "motion", value={"type": "CameraMotionCompensation"}),
        r"model\.motion\.type",
    ),
    "other preprocessor": (
        at("model", "data_preprocessor", "type", value="BaseDataPreprocessor"),
        "data_preprocessor",
    ),
    "broken preprocessor": (at("model", "data_preprocessor", "mean", value="grey"), "mean or std"),
    "no thresholds": (at("model", "test_cfg", value=None), r"model\.test_cfg is missing"),
    "no detector": (at("model", "type", value="ConvModule"), "cannot build|is not a detector"),
    "no such argument": (at("model", "neck", "colour", value="red"), "cannot build this model.*colour"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_config_is_data(small_detector, tmp_path, case):
    change, complaint = HOSTILE[case]
    document = {"model": small_detector("fcos")}
    change(document)
    mark = tmp_path / "mark"
    document = json.loads(json.dumps(document).replace("{mark}", str(mark)))
    manifest = forged(tmp_path / "b", document, {})
    with pytest.raises(UserError, match=complaint):
        open_bundle(tmp_path / "b", manifest)
    assert not mark.exists()


def test_everything_but_the_model_is_ignored(small_detector, tmp_path):
    config = small_detector("fcos")
    document = {
        "model": config,
        "default_scope": "mmdet",
        "train_dataloader": {"dataset": {"type": "os.system"}},
    }
    manifest = forged(tmp_path / "b", document, dict(untrained(config).state_dict()))
    open_bundle(tmp_path / "b", manifest).predict([np.zeros((8, 8, 3), np.uint8)])
