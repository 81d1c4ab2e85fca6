"""Importing mmdet's detectors: configs in JSON and Python, weights, damaged files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from composition.errors import UserError
from model_zoo.adapters.registry import open_detector
from tests.model_zoo.adapters.mmdet_bundles import untrained
from tests.model_zoo.test_importing import NAMES, add


@pytest.fixture
def mmdet_files(small_detector, tmp_path):
    config = small_detector("yolox")
    state = {key: value.contiguous() for key, value in untrained(config).state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    pipeline = [{"type": "Resize", "scale": [64, 64], "keep_ratio": True}]
    (tmp_path / "net.json").write_text(json.dumps({"model": config, "test_pipeline": pipeline}))
    return tmp_path / "net.json"


def test_mmdet(mmdet_files, tmp_path):
    manifest = add(mmdet_files, tmp_path)
    assert (manifest.adapter, manifest.input.width) == ("mmdet", 64)
    assert add(mmdet_files, tmp_path, weights=tmp_path / "net.safetensors") == manifest
    table = open_detector(tmp_path / "bundle").predict([np.zeros((30, 50, 3), np.uint8)])
    assert set(table.image_id.tolist()) <= {0}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "net.safetensors").unlink(), r"net\.safetensors does not exist"),
        (lambda folder: (folder / "net.safetensors").write_bytes(b"pickle"), "is not a safetensors file"),
        (lambda folder: (folder / "net.json").write_text("{"), r"net\.json is not JSON"),
        (lambda folder: (folder / "net.json").write_bytes(b"\xff"), r"net\.json is not JSON"),
    ],
)
def test_damaged_mmdet_files(damage, message, mmdet_files, tmp_path):
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        add(mmdet_files, tmp_path)


def test_mmdet_classes(mmdet_files, tmp_path):
    with pytest.raises(UserError, match=r"\b3\b(.|\n)*\b2\b|\b2\b(.|\n)*\b3\b"):
        add(mmdet_files, tmp_path, classes=NAMES[:2])


def test_an_mmdet_config_in_python_and_a_training_checkpoint(small_detector, tmp_path):
    """As a trainer leaves them: nothing is executed, classes and input size are found inside."""
    from pprint import pformat

    import torch

    config = small_detector("yolox")
    pipeline = "[dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='Pad', size=(64, 64))]"
    (tmp_path / "net.py").write_text(
        f"model = {pformat(config)}\npipeline = {pipeline}\n"
        "test_dataloader = dict(dataset=dict(pipeline=pipeline))\n"
    )
    checkpoint = {"meta": {"dataset_meta": {"classes": NAMES}}, "state_dict": untrained(config).state_dict()}
    torch.save(checkpoint, tmp_path / "net.pth")
    manifest = add(tmp_path / "net.py", tmp_path, classes=None)
    assert (manifest.adapter, manifest.vocabulary) == ("mmdet", NAMES)
    assert (manifest.input.height, manifest.input.width) == (64, 64)


def test_a_stock_mmdet_config_alone(tmp_path):
    """One file of mmdet's model zoo and its weights: what it builds on comes from the installed mmdet."""
    import torch

    from model_zoo.adapters import mmdet_config

    stock = Path(importlib.util.find_spec("mmdet").origin).parent / ".mim" / "configs" / "yolox"
    config = tmp_path / "yolox_tiny_8xb8-300e_coco.py"
    config.write_bytes((stock / config.name).read_bytes())
    model = mmdet_config.model_part(mmdet_config.read(config), config.name)
    torch.save({"state_dict": untrained(model).state_dict()}, tmp_path / "tiny.pth")
    manifest = add(config, tmp_path, weights=tmp_path / "tiny.pth", classes=[f"class {n}" for n in range(80)])
    assert (manifest.adapter, len(manifest.vocabulary)) == ("mmdet", 80)
    assert (manifest.input.height, manifest.input.width, manifest.input.resize) == (416, 416, "letterbox")
