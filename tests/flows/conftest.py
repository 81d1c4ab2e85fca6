"""A real Prefect server for the session, a home folder per test, small real inputs."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from demo.scenes import make_scenes
from flows.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TEACHERS = ROOT / "demo" / "teachers"
Run = Callable[..., tuple[int, str, str]]


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


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    # the harness has its own Prefect database; the rest of the environment is the command's
    monkeypatch.setenv("COLUMNS", "200")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["detcompose", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("detcompose").handlers.clear()


def small_recipe(scenes: Path, **changes: Any) -> dict[str, Any]:
    """A composition that takes seconds: one epoch of a tiny student on 24 scenes."""
    return {
        "name": "digits",
        "teachers": [str(TEACHERS / "digits-low"), str(TEACHERS / "digits-high")],
        "images": {"source": str(scenes / "pool")},
        "generate": {"shard_size": 10, "augment": "none"},
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
