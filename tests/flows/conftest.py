"""A real Prefect server for the session, a home folder per test, small real inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from demo.scenes import make_scenes

ROOT = Path(__file__).resolve().parents[2]
TEACHERS = ROOT / "demo" / "teachers"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 24 and an evaluation set of 8 small digit scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder / "pool", images=24, seed=1, labelled=False, part="pool")
    make_scenes(folder / "evaluation", images=8, seed=2, part="evaluation")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


def small_recipe(scenes: Path, **changes: Any) -> dict[str, Any]:
    """A composition that takes seconds: one epoch of a tiny student on 24 scenes."""
    return {
        "name": "digits",
        "teachers": [str(TEACHERS / "digits-low"), str(TEACHERS / "digits-high")],
        "images": {"source": str(scenes / "pool")},
        "generate": {"shard_size": 10},
        "student": {
            "architecture": "yolox_pico",
            "image_size": 96,
            "epochs": 1,
            "batch_size": 8,
            "flip": False,
            "augmentation": "light",
        },
        "evaluate": [{"name": "evaluation", "annotations": str(scenes / "evaluation" / "scenes.json")}],
        **changes,
    }


@pytest.fixture
def recipe_file(tmp_path: Path, scenes: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe(scenes)))
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())
