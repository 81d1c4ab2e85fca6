"""``detcompose ensemble`` on real teachers and real photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from composition.errors import UserError
from flows.cli.main import app
from tasks import teachers
from tasks.home import Home


@pytest.fixture
def two(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """YOLOX (COCO) and YOLO-Fastest (VOC), added; the options that name them."""
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "home"))
    folder = data_dir / "teachers"
    models = {
        "yolox": ("yolox_nano_coco/yolox_nano.onnx", "coco.names"),
        "voc": ("yolo_fastest_xl_voc/yolo-fastest-xl.cfg", "voc.names"),
    }
    for name, (model, classes) in models.items():
        teachers.add(Home.default(), folder / model, name, classes=folder / classes)
    return ["--teacher", "yolox", "--teacher", "voc"]


def run(*words: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["ensemble", *words, "--json"], catch_exceptions=False)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_calibrated_expert_beats_stock_fusion_and_repeats_itself(two: list[str], data_dir: Path) -> None:
    images = ["--images", str(data_dir / "coco" / "val.json")]
    few = ["--calibrate-on", str(data_dir / "coco" / "train.json"), "--calibrate-images", "40"]
    expert = run(*two, *images, *few)
    assert set(expert["teachers"]) == {"yolox", "voc"}  # type: ignore[call-overload]
    assert run(*two, *images, *few) == expert
    stock = run(*two, *images, "--fuser", "wbf")
    assert float(str(expert["AP"])) > float(str(stock["AP"])) + 1
    assert expert["teachers"] == stock["teachers"]


def test_learning_from_the_measured_images_is_refused(two: list[str], data_dir: Path) -> None:
    path = str(data_dir / "coco" / "val.json")
    with pytest.raises(UserError, match="both"):
        run(*two, "--images", path, "--calibrate-on", path)
    with pytest.raises(UserError, match="cannot be calibrated"):
        run(*two, "--images", path, "--fuser", "wbf", "--calibrate-on", "other.json")
