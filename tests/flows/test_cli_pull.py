"""``detcompose pull`` from a real server, and prediction where only the runtime is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition.errors import UserError
from model_zoo import bundle
from tasks import tracking
from tasks.home import Home
from tasks.packages import make_package
from tasks.pull import pull
from tasks.registration import register_teacher
from tasks.teachers import find
from tests.flows.conftest import TEACHERS
from tests.tasks.registered import detector

ROOT = Path(__file__).resolve().parents[2]
# modules of the extra 'pipeline', without those that the full MLflow of this environment asks for itself
ABSENT = [
    *("torch", "torchvision", "prefect", "mmdet", "mmengine", "mmcv", "pycocotools", "jinja2"),
    *("matplotlib", "safetensors", "timm", "supervision", "numba", "scipy", "sklearn"),
]
RUNTIME = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from flows.cli.main import main
main()
"""


@pytest.fixture
def home(tmp_path: Path, mlflow_address: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_address)
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


def runtime(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line in an interpreter that has the runtime's packages only."""
    return subprocess.run(
        [sys.executable, "-c", RUNTIME, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_pulled_student_predicts_without_the_pipeline(home: Home, tmp_path: Path, scenes: Path) -> None:
    teacher = find(home, str(TEACHERS / "digits-low"))  # an mmdet detector, as students are
    register_teacher(home, teacher, "pulled")
    done = runtime("pull", "teachers/pulled", "--to", "here", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    pulled = json.loads(done.stdout)
    assert pulled["adapter"] == "onnx"
    assert pulled["model"] == "models:/teachers.pulled/1"
    assert bundle.read(tmp_path / "here").digest == pulled["digest"]

    done = runtime("predict", "here", scenes / "evaluation", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 8
    assert sum(len(image["detections"]) for image in found) > 5

    done = runtime("predict", "here", scenes / "evaluation", "--out", "drawn", folder=tmp_path)
    assert done.returncode == 2
    assert "detcompose[pipeline]" in done.stderr

    again = pull(home, "teachers/pulled", tmp_path / "here")
    assert again.unchanged
    trained = pull(home, "teachers/pulled@1", tmp_path / "trained", as_trained=True)
    assert trained.manifest.digest == teacher.digest
    package = make_package(home.store, teacher.folder)
    assert package.counts["onnx"] == 1, "exported once, when it was registered"


def test_a_pull_replaces_bundles_and_nothing_else(home: Home, tmp_path: Path) -> None:
    first = detector(tmp_path, "one")
    second = detector(tmp_path, "two", rows=[(9, 9, 9, 9, 1, 0.9)])
    register_teacher(home, first, "replaced")
    to = tmp_path / "place"
    assert pull(home, "teachers/replaced", to).manifest.digest == first.digest
    register_teacher(home, second, "replaced")
    assert pull(home, "teachers/replaced", to).manifest.digest == second.digest
    assert bundle.read(to).digest == second.digest
    assert pull(home, "teachers/replaced@1", to).manifest.digest == first.digest

    (to / "model.onnx").write_bytes(b"damaged")
    assert not pull(home, "teachers/replaced@1", to).unchanged
    assert bundle.read(to).digest == first.digest

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="exists and is no bundle"):
        pull(home, "teachers/replaced", mine)
    (mine / "manifest.json").write_text("{}")
    with pytest.raises(UserError):
        pull(home, "teachers/replaced", mine)
    assert (mine / "thesis.txt").read_text() == "years"


def test_a_download_that_is_not_what_was_registered_leaves_the_old_bundle(home: Home, tmp_path: Path) -> None:
    first = detector(tmp_path, "one")
    register_teacher(home, first, "kept-old")
    to = tmp_path / "place"
    pull(home, "teachers/kept-old", to)
    second = register_teacher(
        home, detector(tmp_path, "two", rows=[(9, 9, 9, 9, 1, 0.9)]), "kept-old"
    ).version
    (tmp_path / "model.onnx").write_bytes(b"something else")
    connection = tracking.client(home)
    connection.log_artifact(second.run_id, str(tmp_path / "model.onnx"), "teacher/data/bundle")
    with pytest.raises(UserError, match="sha256 differs"):
        pull(home, "teachers/kept-old", to)
    assert bundle.read(to).digest == first.digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".place")]


def test_a_server_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = runtime("pull", "students/x", "--to", "here", folder=tmp_path)
    assert done.returncode == 2
    assert "does not answer" in done.stderr
    assert not (tmp_path / "here").exists()


def test_a_pulled_detector_sees_what_the_registered_one_sees(home: Home, tmp_path: Path) -> None:
    from model_zoo.adapters.registry import open_detector

    register_teacher(home, find(home, str(TEACHERS / "digits-high")), "same")
    pulled = open_detector(pull(home, "teachers/same", tmp_path / "onnx").folder)
    own = open_detector(TEACHERS / "digits-high")
    image = np.asarray(Image.effect_noise((160, 120), 90).convert("RGB"))
    ours, theirs = own.predict([image]), pulled.predict([image])
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.05)
