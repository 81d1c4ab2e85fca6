"""Exported students against torch: the same boxes of the same classes with the same scores."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from composition.detections import Detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.exporting import INPUT, OUTPUTS, export_onnx
from model_zoo.images import read_rgb
from model_zoo.importing import import_teacher
from model_zoo.onnx_metadata import METADATA
from model_zoo.student_settings import available_students
from tests.model_zoo.lively import write_lively

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = ("red", "green", "blue", 'it\'s "odd"')
BOX, SCORE = 1e-2, 1e-4  # pixels of the original; probability


def pictures() -> list[Any]:
    """Real photographs where they are, else blotches; wide and tall ones, so that there is padding."""
    data = Path(os.environ.get("DETCOMPOSE_DATA", ROOT.parent / "shared" / "data")) / "coco" / "images"
    real = sorted(data.glob("*.jpg"))[:8]
    if real:
        return [read_rgb(path) for path in real]
    random = np.random.default_rng(0)
    sizes = [(10, 15), (15, 10), (12, 12), (9, 16), (16, 9), (11, 13)]
    return [random.integers(0, 256, (*size, 3), np.uint8).repeat(24, 0).repeat(24, 1) for size in sizes]


def returned(tmp_path: Path, folder: Path, **options: Any) -> Path:
    """The bundle of the teacher that an exported student comes back as."""
    export_onnx(folder, tmp_path / "student.onnx", **options)
    import_teacher(tmp_path / "student.onnx", classes=None, name="back", destination=tmp_path / "back")
    return tmp_path / "back"


def assert_same(expected: Detections, found: Detections) -> None:
    """Row by row; rows of nearly the same score may have changed places."""
    assert len(expected) == len(found)
    for image_id in np.unique(expected.image_id):
        ours, theirs = expected[expected.image_id == image_id], found[found.image_id == image_id]
        assert len(ours) == len(theirs)
        distance = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(axis=2)
        distance[ours.class_id[:, None] != theirs.class_id[None]] = np.inf
        partner = distance.argmin(axis=1)
        assert len(set(partner.tolist())) == len(partner)
        assert distance.min(axis=1).max() < BOX
        assert np.abs(ours.score - theirs.score[partner]).max() < SCORE


# of YOLOX there are trained weights; random ones amplify the last bit of a sum to a tenth of a pixel
TRAINED = {"yolox_pico": "digits-low", "yolox_nano": "digits-high"}
LIVELY = [name for name in available_students() if name not in TRAINED]


@pytest.mark.parametrize("name", LIVELY)
def test_parity_with_torch(tmp_path: Path, name: str) -> None:
    images = pictures()
    write_lively(tmp_path / "lively", name, VOCABULARY, 128, images)
    back = returned(tmp_path, tmp_path / "lively")
    settings = InferenceSettings(score_floor=0.05, max_detections=200, threads=2)
    expected = open_detector(tmp_path / "lively", settings).predict(images)
    found = open_detector(back, settings).predict(images)
    assert len(expected) > 10 * len(images)
    assert len(np.unique(expected.class_id)) > 1
    assert_same(expected, found)


@pytest.mark.parametrize("architecture", TRAINED)
def test_parity_of_trained_students(tmp_path: Path, architecture: str) -> None:
    folder = ROOT / "demo" / "teachers" / TRAINED[architecture]
    assert bundle.read(folder).provenance["training"]["student"] == architecture
    back = returned(tmp_path, folder)
    images = pictures()
    settings = InferenceSettings(score_floor=0.01, threads=2)
    expected = open_detector(folder, settings).predict(images)
    assert len(expected) > 3 * len(images)
    assert_same(expected, open_detector(back, settings).predict(images))
    original, manifest = bundle.read(folder), bundle.read(back)
    assert manifest.vocabulary == original.vocabulary
    assert manifest.provenance["exported_from"] == original.digest
    assert (manifest.adapter, manifest.output.decoder) == ("onnx", "end2end")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_lively(folder / "lively", "retinanet_effnet_lite0", VOCABULARY, 64, pictures()[:3])
    export_onnx(folder / "lively", folder / "student.onnx", max_detections=40)
    return folder


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_a_stranger_needs_one_input_and_gets_three_outputs(exported: Path) -> None:
    network = session(exported / "student.onnx")
    assert [(one.name, one.shape) for one in network.get_inputs()] == [(INPUT, ["batch", 3, 64, 64])]
    assert [one.name for one in network.get_overridable_initializers()] == ["image_size"]
    assert [(one.name, one.shape[1:]) for one in network.get_outputs()] == [
        ("boxes", [40, 4]),
        ("scores", [40]),
        ("labels", [40]),
    ]
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 3, 64, 64)).astype(np.float32)
    together = network.run(list(OUTPUTS), {INPUT: pixels})
    for row in range(3):
        alone = network.run(list(OUTPUTS), {INPUT: pixels[row : row + 1]})
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[row], single[0], atol=1e-3)


def test_boxes_end_where_the_picture_ends(exported: Path) -> None:
    network = session(exported / "student.onnx")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    size = np.array([[30, 64], [64, 20]], np.float32)
    boxes, scores, _ = network.run(list(OUTPUTS), {INPUT: pixels, "image_size": size})
    assert (scores > 0).any(axis=1).all()
    assert boxes[0, :, 3].max() <= 30
    assert boxes[1, :, 2].max() <= 20
    assert boxes.min() >= 0


def test_the_same_student_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    again = export_onnx(exported / "lively", tmp_path / "again.onnx", max_detections=40)
    assert again.path.read_bytes() == (exported / "student.onnx").read_bytes()
    assert again.bytes == again.path.stat().st_size
    assert again.difference < 1e-4


def test_the_file_describes_itself(exported: Path) -> None:
    entries = {one.key: one.value for one in onnx.load(exported / "student.onnx").metadata_props}
    document = json.loads(entries[METADATA])
    assert document["vocabulary"] == list(VOCABULARY)
    assert document["license"] == "Apache-2.0"
    assert document["input"]["color"] == "rgb"
    assert document["input"]["mean"] == [0, 0, 0]
    assert document["max_detections"] == 40


def test_own_class_names_may_be_given(exported: Path, tmp_path: Path) -> None:
    names = ["r", "g", "b", "o"]
    manifest = import_teacher(
        exported / "student.onnx", classes=names, name="t", destination=tmp_path / "t", license="MIT"
    )
    assert manifest.vocabulary == tuple(names)
    assert manifest.license == "MIT"
    with pytest.raises(UserError, match="the class list has 2 names, the network 4 classes") as error:
        import_teacher(exported / "student.onnx", classes=["a", "b"], name="t", destination=tmp_path / "u")
    assert "Leave out --classes" in error.value.way_out


def edited(source: Path, target: Path, change: Any) -> Path:
    model = onnx.load(source)
    document = json.loads(next(one.value for one in model.metadata_props if one.key == METADATA))
    text = change(document)
    onnx.helper.set_model_props(model, {METADATA: text if isinstance(text, str) else json.dumps(document)})
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda entry: "{", "metadata 'detcompose' is not JSON"),
        (lambda entry: "[1]", "metadata 'detcompose': : Input should be a valid dictionary"),
        (
            lambda entry: entry["input"].update(height=32),
            "metadata says 64 x 32 pixels, its input is 64 x 64",
        ),
        (lambda entry: entry["output"].update(decoder="magic"), "metadata names decoder 'magic'"),
        (lambda entry: entry["output"].update(decoder="yolox"), "decoder 'yolox' does not fit"),
        (lambda entry: entry["vocabulary"].append("red"), "class name 'red' appears twice"),
        (lambda entry: entry.update(extra=1), "extra: Extra inputs are not permitted"),
    ],
)
def test_forged_metadata(exported: Path, tmp_path: Path, change: Any, problem: str) -> None:
    path = edited(exported / "student.onnx", tmp_path / "forged.onnx", change)
    with pytest.raises(UserError, match=problem):
        import_teacher(path, classes=None, name="t", destination=tmp_path / "t")


def test_errors_name_the_way_out(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no name for an ONNX file"):
        export_onnx(exported / "lively", tmp_path / "student.pt")
    with pytest.raises(UserError, match="does not exist"):
        export_onnx(exported / "lively", tmp_path / "nowhere" / "student.onnx")
    with pytest.raises(UserError, match="is not a bundle"):
        export_onnx(tmp_path, tmp_path / "student.onnx")
    import_teacher(exported / "student.onnx", classes=None, name="t", destination=tmp_path / "t")
    with pytest.raises(UserError, match="'t' is a detector of onnx: only those of mmdet"):
        export_onnx(tmp_path / "t", tmp_path / "student.onnx")
    shutil.copy(exported / "student.onnx", tmp_path / "plain.onnx")
    model = onnx.load(tmp_path / "plain.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="needs its class names"):
        import_teacher(tmp_path / "plain.onnx", classes=None, name="p", destination=tmp_path / "p")
