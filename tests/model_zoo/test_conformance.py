"""The conformance kit on detectors that keep their promises, and on one that breaks each of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composition import detections as table
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import registry
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.preprocessing import check_image
from model_zoo.bundle import InputSpec, OutputSpec
from model_zoo.conformance import assert_conforms, check_detector, made_up
from model_zoo.importing import import_teacher
from tests.model_zoo.adapters.networks import save_darknet, yolov8

DIGITS = Path(__file__).resolve().parents[2] / "demo" / "teachers" / "digits-high"


class Honest:
    """One box an image, its middle; the score is the brightness."""

    vocabulary = ("ant", "bee")

    def __init__(self, settings):
        self.settings = settings
        self.calls = 0

    def predict(self, images):
        self.calls += 1
        rows = []
        for number, image in enumerate(images):
            check_image(image)
            height, width = image.shape[:2]
            box = [width / 4, height / 4, width * 3 / 4, height * 3 / 4]
            rows += [(number, box, float(image.mean() / 255), 1), (number, box, 0.3, 0)]
        rows = [row for row in rows if row[2] >= self.settings.score_floor]
        rows = table.make(*zip(*rows, strict=True)) if rows else table.empty()
        rows = table.sort(rows)
        kept = [rows[rows.image_id == n][: self.settings.max_detections] for n in range(len(images))]
        return table.concatenate(kept)


def broken(change):
    """A detector that is honest but for one thing."""

    class Broken(Honest):
        def predict(self, images):
            return change(self, images, super().predict)

    return Broken


def leaks_between_images(self, images, predict):
    found = predict(images)
    return replace(found, score=found.score * np.float32(1 - 0.1 * (len(images) > 1)))


def outside(self, images, predict):
    found = predict(images)
    return replace(found, boxes=found.boxes + np.float32(5000))


def not_finite(self, images, predict):
    found = predict(images)
    return replace(found, score=np.full_like(found.score, np.nan))


def other_every_time(self, images, predict):
    found = predict(images)
    return replace(found, score=found.score * np.float32(1 - 0.01 * (self.calls % 2)))


def overwrites(self, images, predict):
    found = predict(images)
    for image in images:
        image[:] = 0
    return found


def dies_of_small_ones(self, images, predict):
    if any(min(image.shape[:2]) < 2 for image in images):
        raise ZeroDivisionError("float division by zero")
    return predict(images)


def takes_anything(self, images, predict):
    return predict([image for image in images if image.ndim == 3 and image.shape[2] == 3 and image.size])


def unsorted(self, images, predict):
    return predict(images)[::-1]


def ignores_the_floor(self, images, predict):
    self.settings = InferenceSettings(score_floor=0.05)
    return predict(images)


def test_an_honest_detector_keeps_every_promise():
    checks = check_detector(Honest, ("ant", "bee"))
    assert not [check for check in checks if check.problem]
    assert len(checks) == 12
    assert_conforms(Honest)


@pytest.mark.parametrize(
    ("change", "promise", "problem"),
    [
        (
            leaks_between_images,
            "a batch of mixed sizes equals one by one",
            "is there one time and not the other",
        ),
        (outside, "boxes inside the image, scores finite, sorted", "a box outside its image"),
        (not_finite, "boxes inside the image, scores finite, sorted", "a score that is not finite"),
        (other_every_time, "the same twice", "is there one time and not the other"),
        (overwrites, "images are left as they are", "its input was overwritten"),
        (
            dies_of_small_ones,
            "one pixel and extreme aspect ratios",
            "ZeroDivisionError: float division by zero",
        ),
        (takes_anything, "what is no RGB picture is refused", "an image that is grey was accepted"),
        (unsorted, "boxes inside the image, scores finite, sorted", "the rows are not sorted"),
        (ignores_the_floor, "score floor and number of detections", "below the floor of 0.4"),
    ],
)
def test_a_broken_promise_is_found(change, promise, problem):
    checks = {check.name: check.problem for check in check_detector(broken(change))}
    assert problem in (checks[promise] or "")
    with pytest.raises(AssertionError, match=promise):
        assert_conforms(broken(change))


def test_another_vocabulary_and_a_detector_that_does_not_open():
    checks = {check.name: check.problem for check in check_detector(Honest, ("ant",))}
    assert "2 class names, the manifest has 1" in (checks["vocabulary"] or "")

    def refuses(settings):
        raise UserError("no weights", "Fetch them.")

    (check,) = check_detector(refuses)
    assert (check.name, check.problem) == ("opens", "no weights\nFetch them.")


def test_our_own_runtimes(tmp_path):
    import_teacher(
        yolov8(tmp_path / "m.onnx", [(32, 32, 16, 8, 1, 0.9), (9, 9, 8, 8, 0, 0.6)], 2),
        classes=("ant", "bee"),
        name="onnx",
        destination=tmp_path / "onnx",
    )
    import_teacher(
        save_darknet(tmp_path / "files"), classes=("ant", "bee"), name="dark", destination=tmp_path / "dark"
    )
    for folder in (tmp_path / "onnx", tmp_path / "dark", DIGITS):
        assert_conforms(
            lambda settings, folder=folder: registry.open_detector(folder, settings),
            bundle.read(folder).vocabulary,
        )


PLUG_IN = """
from tests.model_zoo.test_conformance import Honest


def open_detector(folder, manifest, settings):
    assert (folder / "weights.bin").read_bytes() == b"weights"
    return Honest(settings)
"""


def test_a_package_brings_an_adapter(tmp_path, monkeypatch):
    """As pip leaves it: a module, and a dist-info folder that names the entry point."""
    site = tmp_path / "site"
    info = site / "detcompose_honest-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "detcompose_honest.py").write_text(PLUG_IN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detcompose-honest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[detcompose.adapters]\n"
        "honest = detcompose_honest:open_detector\n"
        "onnx = detcompose_honest:open_detector\n"
        "gone = detcompose_honest:absent\n"
    )
    for name in ("honest", "gone"):
        bundle.write(
            tmp_path / name,
            name=name,
            adapter=name,
            vocabulary=("ant", "bee"),
            input=InputSpec(height=64, width=64),
            output=OutputSpec(),
            files={"weights.bin": b"weights"},
        )
    with pytest.raises(UserError, match="adapter is 'honest'"):
        registry.open_detector(tmp_path / "honest")
    monkeypatch.syspath_prepend(str(site))
    assert {"onnx", "honest", "gone"} <= set(registry.names())
    assert_conforms(lambda settings: registry.open_detector(tmp_path / "honest", settings), ("ant", "bee"))
    assert registry.opener_of("onnx").__module__ == "model_zoo.adapters.registry", "ours come first"
    with pytest.raises(UserError, match=r"adapter 'gone' \(detcompose_honest:absent\) cannot be imported"):
        registry.open_detector(tmp_path / "gone")
    sys.modules.pop("detcompose_honest", None)


def test_made_up_pictures():
    pictures = made_up([(3, 4), (50, 60)])
    assert [picture.shape for picture in pictures] == [(3, 4, 3), (50, 60, 3)]
    assert (made_up([(3, 4)])[0] == pictures[0]).all()
