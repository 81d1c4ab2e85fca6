"""Models of a real MLflow registry as teachers: as data, over HTTP, or as code by consent."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import mlflow
import numpy as np
import pytest

from composition.errors import UserError
from model_zoo.adapters.registry import open_detector
from tasks import mlflow_pyfunc, teachers, tracking
from tasks.home import Home
from tests.model_zoo.detection_server import detection_server

DIGITS = Path(__file__).resolve().parents[2] / "demo" / "teachers" / "digits-low"
AUTHORS_CODE = '''
import base64, io, os, pathlib
import mlflow.pyfunc
from mlflow.models import set_model
from PIL import Image
import numpy as np


class Brightness(mlflow.pyfunc.PythonModel):
    """One box a picture, its middle, with the brightness as score."""

    def load_context(self, context):
        pathlib.Path(os.environ["MARK_OF_TEST"]).touch()

    def predict(self, context, model_input, params=None):
        rows = []
        for text in model_input["image"]:
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
            height, width = pixels.shape[:2]
            box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
            rows.append({"boxes": box, "scores": [pixels.mean() / 255], "labels": ["bee"]})
        return rows


set_model(Brightness())
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose registry holds a stranger's Python model and a bundle of ours."""
    folder = tmp_path_factory.mktemp("home")
    home = Home(folder)
    code = folder / "model.py"
    code.write_text(AUTHORS_CODE)
    connection = tracking.client(home)
    experiment = connection.create_experiment("strangers", artifact_location=(folder / "artifacts").as_uri())
    run = connection.create_run(experiment)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("MARK_OF_TEST", str(folder / "while it was saved"))
        mlflow.pyfunc.save_model(folder / "saved", python_model=str(code), pip_requirements=[])
    connection.log_artifacts(run.info.run_id, str(folder / "saved"), "model")
    connection.log_artifacts(run.info.run_id, str(DIGITS), "bundle")
    root = connection.get_run(run.info.run_id).info.artifact_uri
    for name, part, tags in (("brightness", "model", {"classes": "ant, bee"}), ("digits", "bundle", {})):
        connection.create_registered_model(name)
        version = connection.create_model_version(name, f"{root}/{part}", run.info.run_id, tags=tags)
        connection.set_registered_model_alias(name, "champion", version.version)
    return home


@pytest.fixture(autouse=True)
def mark(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that exists once the stranger's code has run; and the home is the default one."""
    monkeypatch.setenv("MARK_OF_TEST", str(tmp_path / "ran"))
    monkeypatch.setenv("DETCOMPOSE_HOME", str(home.root))
    monkeypatch.delenv(mlflow_pyfunc.VARIABLE, raising=False)
    return tmp_path / "ran"


def grey(*values: int) -> list[np.ndarray]:
    return [np.full((40, 80, 3), value, np.uint8) for value in values]


def _out_of_order(*_: object) -> None:
    raise UserError("out of order")


def test_a_strangers_code_runs_only_where_its_user_said_so(
    home: Home, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"models:/brightness/1 is a Python model \(loader mlflow") as error:
        teachers.add(home, "models:/brightness@champion", "bright")
    assert "--allow-code" in error.value.way_out
    assert not mark.exists()
    assert not [path for path in home.teachers.iterdir() if "bright" in path.name]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow says of packages and type hints
        added = teachers.add(home, "models:/brightness@champion", "bright", allow_code=True)
        assert mark.exists()
        assert added.manifest.vocabulary == ("ant", "bee")
        assert added.manifest.provenance["model"] == "models:/brightness/1"
        found = open_detector(added.folder).predict(grey(51, 204))
        np.testing.assert_allclose(found.score, [0.2, 0.8], atol=1e-3)
        np.testing.assert_allclose(found.boxes, [[20, 10, 60, 30]] * 2)
        assert found.class_id.tolist() == [1, 1]

        # added again on a bad day, it is still there
        monkeypatch.setattr(mlflow_pyfunc.MlflowDetector, "predict", _out_of_order)
        with pytest.raises(UserError, match="out of order"):
            teachers.add(home, "models:/brightness@champion", "bright", allow_code=True)
        assert teachers.find(home, "bright").digest == added.digest
        monkeypatch.undo()
        monkeypatch.setenv("MARK_OF_TEST", str(mark))

        # the same bundle on another machine brings no consent along
        mark.unlink()
        monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "elsewhere"))
        with pytest.raises(UserError, match="nobody allowed that on this machine"):
            open_detector(added.folder)
        assert not mark.exists()
        monkeypatch.setenv(mlflow_pyfunc.VARIABLE, f"abc,{added.digest}")
        assert len(open_detector(added.folder).predict(grey(204))) == 1


def test_a_bundle_of_ours_is_data(home: Home, mark: Path) -> None:
    added = teachers.add(home, "models:/digits/1", "digits")
    assert added.manifest.adapter == "mmdet"
    assert added.digest == teachers.checked(DIGITS).digest
    assert not mark.exists()


@pytest.mark.parametrize("preset", [None, "detcompose"])
def test_a_model_that_is_served_is_asked_over_http(home: Home, mark: Path, preset: str | None) -> None:
    with detection_server() as site:
        if preset:
            box = {"class": "bee", "score": 0.5, "box": [20.0, 10.0, 60.0, 30.0]}
            site.answer = lambda *_: {"predictions": [{"width": 80, "height": 40, "detections": [box]}]}
        added = teachers.add(
            home, "models:/brightness@champion", f"served-{preset}".lower(), endpoint=site.url, preset=preset
        )
        found = open_detector(added.folder).predict(grey(128))
    np.testing.assert_allclose(found.boxes, [[20, 10, 60, 30]])
    assert json.loads((added.folder / "service.json").read_text())["model_version"] == "models:/brightness/1"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("models:/brightness@nobody", {}, "is not in the registry at"),
        ("models:/brightness/7", {}, "is not in the registry at"),
        ("models:/brightness", {}, "is no version of a registered model"),
        ("x.onnx", {"allow_code": True}, "Only models:/NAME@ALIAS has them"),
    ],
)
def test_mistakes(home: Home, reference: str, options: dict[str, bool], message: str) -> None:
    with pytest.raises(UserError, match=message):
        teachers.add(home, reference, "other", **options)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "answered list for 1 images"),
        ("text", "answered str for 1 images"),
        ({"boxes": []}, "answered dict for 1 images"),
    ],
)
def test_what_a_pyfunc_may_not_return(answer: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mlflow_pyfunc.as_results(answer, 1, "x")
