"""``mlflow models serve`` of a registered detector, as a process of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks import registry, tracking
from tasks.home import Home
from tasks.pull import pull
from tasks.registration import register_teacher
from tests.servers import free_port, process
from tests.tasks.registered import detector

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def served(mlflow_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_address)
        rows = [(32, 32, 20, 20, 0, 0.8), (10, 12, 8, 10, 1, 0.4)]
        version = register_teacher(Home(folder / "home"), detector(folder, "served", rows), "served").version
        port = free_port()
        command = [
            *(sys.executable, "-m", "mlflow", "models", "serve", "-m", registry.uri(version)),
            *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
        ]
        environment = {
            "PYTHONPATH": str(ROOT),
            # MLflow starts uvicorn by its bare name
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        with process(command, folder / "serve.log", f"http://127.0.0.1:{port}/ping", environment):
            yield f"http://127.0.0.1:{port}/invocations"


def picture(width: int = 128, height: int = 128) -> str:
    """A white image in base64."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def ask(address: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_images_come_back_as_detections(served: str) -> None:
    status, answer = ask(served, {"dataframe_records": [{"image": picture()}]})
    assert status == 200
    (found,) = answer["predictions"]
    assert (found["width"], found["height"]) == (128, 128)
    first, second = found["detections"]
    assert first == {"class": "cat", "score": 0.8, "box": [44.0, 44.0, 84.0, 84.0]}
    assert second["class"] == "dog"

    url = f"data:image/png;base64,{picture()}"
    body = {"inputs": [{"image": picture(64, 64)}, {"image": url}], "params": {"threshold": 0.5}}
    status, answer = ask(served, body)
    assert status == 200
    assert [len(one["detections"]) for one in answer["predictions"]] == [1, 1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": [{"image": "***"}]}, "image 0: is not valid base64"),
        ({"inputs": [{"image": "aGVsbG8="}]}, "image 0: not a readable image"),
        ({"inputs": [{"image": ""}]}, "image 0: the file is empty"),
        ({"inputs": [{"image": None}]}, "image 0"),
        ({"inputs": [{"image": picture()}, {"image": picture()[:40]}]}, "image 1: "),
        ({"inputs": []}, "0 images; send 1 to 64 a request"),
        ({"inputs": [{"image": picture()}] * 65}, "65 images; send 1 to 64 a request"),
        ({"inputs": [{"picture": picture()}]}, "Model is missing inputs ['image']"),
        ({"inputs": [{"image": picture()}], "params": {"threshold": 7}}, "threshold is 7"),
        (b"hello", "valid JSON"),
        (b"[1]", "exactly one of the input fields"),
        (b"", "valid JSON"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_garbage_is_a_400_that_says_why(served: str, body: Any, reason: str) -> None:
    status, answer = ask(served, body)
    assert status == 400
    assert reason in answer["message"]
    assert "Traceback" not in json.dumps(answer)
    if "image" in answer["message"] and "inputs" not in answer["message"]:
        assert len(answer["message"]) < 200, "the request is not sent back"


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_a_version_is_used_where_mlflow_may_load_neither_pickle_nor_code(
    mlflow_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.pyfunc import load_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_address)
    home = Home(tmp_path / "home")
    version = register_teacher(home, detector(tmp_path, "nocode"), "nocode").version
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    assert pull(home, "teachers/nocode", tmp_path / "pulled").manifest.vocabulary == ("cat", "dog")
    place = tracking.client(home).get_model_version_download_uri(version.name, version.version)
    (found,) = load_model(place).predict([{"image": picture()}])
    assert [one["class"] for one in found["detections"]] == ["cat"]
