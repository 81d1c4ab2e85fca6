"""A detector behind a real server that fails, throttles, truncates and talks nonsense."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import http, service
from model_zoo.adapters.base import InferenceSettings, UnansweredError
from model_zoo.adapters.registry import open_detector
from model_zoo.importing import import_teacher
from tests.model_zoo.detection_server import bright_boxes, detection_server

NAMES = ("ant", "bee", "cow")


def grey(*values, size=(40, 80)):
    return [np.full((*size, 3), value, np.uint8) for value in values]


@pytest.fixture
def site():
    with detection_server() as running:
        yield running


@pytest.fixture
def quick(monkeypatch):
    """Waits of milliseconds."""
    monkeypatch.setattr(http, "_FIRST_WAIT_SECONDS", 0.01)


def added(site, tmp_path, settings=None, **description):
    (tmp_path / "service.json").write_text(json.dumps({"service": "http", "url": site.url, **description}))
    folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
    import_teacher(tmp_path / "service.json", classes=NAMES, name="api", destination=folder)
    return open_detector(folder, settings or InferenceSettings())


def test_the_mlflow_preset_in_batches(site, tmp_path):
    detector = added(site, tmp_path, preset="mlflow", parallel=2)
    images = [*grey(*range(20, 230, 10)), *grey(90, size=(60, 60))]
    found = detector.predict(images)
    assert found.image_id.tolist() == list(range(len(images)))
    assert set(found.class_id.tolist()) == {1}
    np.testing.assert_allclose(found.boxes[0], [20, 10, 60, 30])
    np.testing.assert_allclose(found.boxes[-1], [15, 15, 45, 45])
    np.testing.assert_allclose(found.score, [image.mean() / 255 for image in images], atol=0.01)
    assert sorted(pictures for _, _, pictures, _ in site.requests) == [6, 8, 8]
    assert 1 <= site.most_active <= 2
    assert len(detector.predict([])) == 0


def test_scores_below_the_floor_and_larger_pictures(site, tmp_path):
    detector = added(
        site, tmp_path, InferenceSettings(score_floor=0.5), longest_side=50, encoding="png", batch_size=2
    )
    found = detector.predict(grey(100, 200, size=(100, 200)))
    assert found.image_id.tolist() == [1]
    # asked with 50 x 25 pixels, answered in the pixels of the original
    np.testing.assert_allclose(found.boxes, [[50, 25, 150, 75]], atol=1e-3)


KSERVE = {
    "model_name": "detector",
    "outputs": [
        {"name": "labels", "shape": [1, 2], "datatype": "INT64", "data": [2, 1]},
        {"name": "boxes", "shape": [1, 2, 4], "datatype": "FP32", "data": [8, 4, 16, 12, 0, 0, 40, 20]},
        {"name": "scores", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.75]},
    ],
}
OBJECTS = {
    "data": {
        "found": [
            {"p": 75, "what": "bee", "at": {"x": 0, "y": 0, "w": 0.5, "h": 0.5}},
            {"p": 50, "what": "cow", "at": {"x": 0.1, "y": 0.1, "w": 0.1, "h": 0.2}},
        ]
    }
}
COLUMNS = [{"b": [[0, 0, 20, 40], [4, 8, 12, 16]], "s": [0.75, 0.5], "c": [11, 12]}]


@pytest.mark.parametrize(
    ("answer", "description"),
    [
        (KSERVE, {"preset": "kserve-v2"}),
        (
            OBJECTS,
            {
                "request": {"form": "file"},
                "response": {
                    **{"results": None, "objects": "data.found", "scores": "p", "labels": "what"},
                    "boxes": ["at.x", "at.y", "at.w", "at.h"],
                },
                **{"box_format": "xywh", "coordinates": "fractions", "score_scale": 100},
            },
        ),
        (
            COLUMNS,
            {
                "request": {"body": "$images", "item": {"b64": "$image", "v": 1}},
                "response": {"results": "", "boxes": "b", "scores": "s", "labels": "c"},
                **{"box_format": "yxyx", "labels": "numbers", "label_offset": 10},
            },
        ),
    ],
)
def test_mappings(answer, description, site, tmp_path):
    site.answer = lambda *_: answer
    found = added(site, tmp_path, **description).predict(grey(100))
    np.testing.assert_allclose(found.boxes, [[0, 0, 40, 20], [8, 4, 16, 12]], atol=1e-4)
    np.testing.assert_allclose(found.score, [0.75, 0.5])
    assert found.class_id.tolist() == [1, 2]


@pytest.mark.parametrize(
    "trouble",
    [
        *("status:500", "status:503", "truncate:", "text:", "text:<html>", "text:[]", "slow:0.8"),
        'text:{"predictions": [null]}',
        'text:{"predictions": [{"error": "out of memory"}]}',
        'text:{"predictions": [{"boxes": [[0, 0, 1, NaN]], "scores": [0.5], "labels": ["bee"]}]}',
        'text:{"predictions": [{"boxes": [[0, 0, 1]], "scores": [0.5], "labels": ["bee"]}]}',
        'text:{"predictions": [{"boxes": [[0, 0, 1, 1]], "scores": [7], "labels": ["bee"]}]}',
        'text:{"predictions": [{"boxes": [[0, 0, 1, 1]], "scores": [], "labels": ["bee"]}]}',
        'text:{"predictions": [{"boxes": [[0, 0, 1, "1"]], "scores": [0.5], "labels": ["bee"]}]}',
        'text:{"predictions": []}',
        "text:" + "[" * 100_000,
    ],
)
def test_trouble_that_passes_is_asked_again(trouble, site, tmp_path, quick):
    detector = added(site, tmp_path, retries=2, timeout_seconds=0.4)
    site.plan = [trouble, trouble]
    assert len(detector.predict(grey(100))) == 1
    assert site.count == 3


def test_the_wait_that_the_service_asks_for(site, tmp_path, quick):
    detector = added(site, tmp_path, max_wait_seconds=1)
    site.plan = ["throttle:1", "throttle:86400"]
    assert len(detector.predict(grey(100))) == 1
    first, second, third = (moment for *_, moment in site.requests)
    assert 0.95 < second - first < 3
    assert 0.95 < third - second < 3  # no service holds us for a day


def test_not_more_requests_than_allowed(site, tmp_path):
    detector = added(site, tmp_path, requests_per_second=10, parallel=8)
    begin = time.monotonic()
    assert len(detector.predict(grey(*range(100, 108)))) == 8
    assert time.monotonic() - begin >= 0.7


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_bad_image_costs_no_other_and_is_never_silent(batch_size, site, tmp_path, quick):
    detector = added(site, tmp_path, batch_size=batch_size)
    site.poison = (31, 31)
    images = [*grey(50, 60), *grey(70, size=(31, 31)), *grey(80, 90)]
    with pytest.raises(UnansweredError, match="api did not answer for 1 of 5 images: HTTP 422") as error:
        detector.predict(images)
    assert error.value.reasons == {2: "HTTP 422 Unprocessable Entity"}
    assert error.value.found.image_id.tolist() == [0, 1, 3, 4]
    site.poison = None
    assert len(detector.predict(images)) == 5


def test_a_result_without_sense_within_a_batch(site, tmp_path, quick):
    def answer(*arguments):
        whole = bright_boxes(*arguments)
        if len(whole["predictions"]) > 1:
            whole["predictions"][1]["boxes"] = [["left", 0, 1, 1]]
        return whole

    site.answer = answer
    assert len(added(site, tmp_path, batch_size=3).predict(grey(50, 60, 70))) == 3
    assert site.count == 2


def test_a_service_that_is_down_is_not_asked_for_ever(site, tmp_path, quick):
    detector = added(site, tmp_path, retries=1, give_up_after=3, parallel=1)
    site.down = True
    with pytest.raises(UnansweredError) as error:
        detector.predict(grey(*range(40)))
    assert len(error.value.reasons) == 40
    assert site.count == 6
    assert error.value.reasons[39] == "not asked: HTTP 503 Service Unavailable"


def test_nobody_listens(tmp_path, quick):
    with detection_server() as site:
        detector = added(site, tmp_path, retries=1)
    with pytest.raises(UnansweredError, match="ConnectError"):
        detector.predict(grey(1))


@pytest.mark.parametrize("trouble", ["status:401", "status:404", "redirect:http://elsewhere.example/"])
def test_what_asking_again_cannot_mend(trouble, site, tmp_path):
    detector = added(site, tmp_path)
    site.plan = [trouble]
    with pytest.raises(UserError, match=r"/detect answers \d+ .*\nCheck the URL and the secret") as error:
        detector.predict(grey(1))
    assert not isinstance(error.value, UnansweredError)
    assert site.count == 1


def test_classes_outside_the_list(site, tmp_path):
    site.answer = lambda *_: {
        "predictions": [{"boxes": [[0, 0, 9, 9]] * 2, "scores": [0.9] * 2, "labels": ["bee", "yak"]}]
    }
    with pytest.raises(UserError, match="answered class 'yak', which the class list does not have"):
        added(site, tmp_path).predict(grey(1))
    assert added(site, tmp_path, unknown_labels="drop").predict(grey(1)).class_id.tolist() == [1]


def test_the_secret_comes_from_the_environment_and_lies_nowhere(site, tmp_path, monkeypatch):
    auth = {"environment": "API_TOKEN_OF_TEST", "prefix": "Key "}
    with pytest.raises(UserError, match="the environment has no API_TOKEN_OF_TEST"):
        added(site, tmp_path, auth=auth)
    monkeypatch.setenv("API_TOKEN_OF_TEST", "xyzzy")
    detector = added(site, tmp_path, auth=auth)
    assert len(detector.predict(grey(100))) == 1
    assert site.requests[0][1]["Authorization"] == "Key xyzzy"
    assert not any(b"xyzzy" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"url": "file:///etc/passwd"}, "url: .*must be http"),
        ({"url": "https://me:secret@example.com/"}, "url: .*without user and password"),
        ({"preset": "sagemaker"}, "preset: "),
        ({"retries": -1}, "retries: "),
        ({"surprise": 1}, "surprise: "),
        ({"response": {"boxes": ["x", "y"]}}, r"response\.boxes"),
        ({"response": {"results": None}, "batch_size": 4}, "batch_size is 4, but the answer holds one"),
        ({"auth": {"environment": "A B"}}, r"auth\.environment"),
    ],
)
def test_descriptions_with_mistakes(description, message, site, tmp_path):
    with pytest.raises(UserError, match=message):
        added(site, tmp_path, **description)


def test_the_bundle_says_everything(site, tmp_path):
    added(site, tmp_path, preset="kserve-v2")
    (folder,) = tmp_path.glob("bundle-*")
    document = json.loads((folder / "service.json").read_text())
    assert document["response"]["tensors"] == "outputs"
    assert document["timeout_seconds"] == 30
    first = bundle.read(folder).digest
    added(site, tmp_path, preset="kserve-v2", model_version="2")
    assert len({bundle.read(path).digest for path in tmp_path.glob("bundle-*")} | {first}) == 2
    assert service.PRESETS.keys() == {"mlflow", "detcompose", "kserve-v2"}
