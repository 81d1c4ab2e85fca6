"""Bundles: identity, and everything that may be wrong with one."""

from __future__ import annotations

import json

import pytest

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.registry import open_detector
from model_zoo.bundle import InputSpec, OutputSpec

SPEC = InputSpec(height=32, width=64)
WEIGHTS = b"weights of some kind"


def write(folder, **changes):
    fields = {
        "name": "cats",
        "adapter": "onnx",
        "vocabulary": ("cat", "dog"),
        "input": SPEC,
        "output": OutputSpec(decoder="yolox"),
        "files": {"model.onnx": WEIGHTS},
        "provenance": {"from": "here"},
    }
    return bundle.write(folder, **{**fields, **changes})


def edit(folder, **changes):
    """Rewrites fields of the manifest, digest removed, as someone making a bundle by hand would."""
    path = folder / bundle.MANIFEST
    document = json.loads(path.read_text())
    del document["digest"]
    path.write_text(json.dumps({**document, **changes}))


def test_what_is_written_is_read(tmp_path):
    written = write(tmp_path / "cats")
    assert bundle.read(tmp_path / "cats") == written
    assert json.loads((tmp_path / "cats" / "manifest.json").read_text())["digest"] == written.digest
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cats", "manifest.json", "model.onnx"]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "felines"}, True),
        ({"provenance": {}}, True),
        ({"license": "MIT"}, True),
        ({"vocabulary": ("dog", "cat")}, False),
        ({"vocabulary": ("cat", "wolf")}, False),
        ({"input": InputSpec(height=64, width=64)}, False),
        ({"output": OutputSpec(decoder="yolox", nms_iou=0.5)}, False),
        ({"files": {"model.onnx": WEIGHTS + b"."}}, False),
        ({"files": {"other.onnx": WEIGHTS}}, False),
    ],
)
def test_the_digest_covers_what_decides_predictions(changes, same, tmp_path):
    assert (write(tmp_path / "a").digest == write(tmp_path / "b", **changes).digest) is same


def test_a_bundle_is_replaced_whole(tmp_path):
    write(tmp_path / "cats", files={"old.onnx": b"old"})
    write(tmp_path / "cats")
    assert sorted(path.name for path in (tmp_path / "cats").iterdir()) == ["manifest.json", "model.onnx"]


def test_a_failed_write_leaves_the_old_bundle(tmp_path):
    before = write(tmp_path / "cats")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "cats", files={"model.onnx": tmp_path / "absent"})
    assert bundle.read(tmp_path / "cats") == before
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]


@pytest.mark.parametrize("content", [WEIGHTS[::-1], WEIGHTS[:-1], b"", WEIGHTS + b"\0"])
def test_changed_weights(content, tmp_path):
    write(tmp_path / "cats")
    (tmp_path / "cats" / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx is not the file that the manifest describes"):
        bundle.read(tmp_path / "cats")


def test_missing_and_linked_weights(tmp_path):
    write(tmp_path / "cats")
    weights = tmp_path / "cats" / "model.onnx"
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"'model\.onnx' of the manifest is missing"):
        bundle.read(tmp_path / "cats")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"'model\.onnx' of the manifest is missing"):
        bundle.read(tmp_path / "cats")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "..\\secret",
        "manifest.json",
        "..",
        "./manifest.json",
        "a//b",
        "",
        ".",
        "a\0b",
    ],
)
def test_file_names_that_leave_the_bundle(name, tmp_path):
    write(tmp_path / "cats")
    (tmp_path / "secret").write_bytes(WEIGHTS)
    entry = json.loads((tmp_path / "cats" / "manifest.json").read_text())["files"]["model.onnx"]
    edit(tmp_path / "cats", files={name: entry})
    with pytest.raises(UserError, match="would leave the bundle"):
        bundle.read(tmp_path / "cats")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": ["cat", "dog", "cat"]}, r"'cat' appears twice \(classes 1 and 3\)"),
        ({"vocabulary": ["cat", " "]}, "class 2 is blank"),
        ({"vocabulary": ["cat", "\x1b[2Jdog"]}, "class 2 holds control characters"),
        ({"vocabulary": []}, "vocabulary"),
        ({"version": 2}, "reads bundle version 1, not 2"),
        ({"format": "zip"}, "format"),
        ({"name": "../cats"}, "name: "),
        ({"name": "cats\n"}, "name: "),
        ({"surprise": 1}, "surprise"),
        ({"input": {"height": 0, "width": 1}}, r"input\.height"),
        ({"input": {"height": 1, "width": 9999}}, r"input\.width"),
        ({"input": {"height": 8, "width": 8, "mean": [float("nan"), 0, 0]}}, r"input\.mean\.0"),
        ({"input": {"height": 8, "width": 8, "std": [1, 0, 1]}}, r"input\.std\.1"),
        ({"output": {"nms_iou": 1.5}}, r"output\.nms_iou"),
        ({"output": {"class_offset": 1 << 40}}, r"output\.class_offset"),
        ({"files": {"model.onnx": {"sha256": "beef", "bytes": 1}}}, r"files\.model\.onnx\.sha256"),
        ({"files": None}, "files"),
    ],
)
def test_manifests_with_wrong_fields(changes, message, tmp_path):
    write(tmp_path / "cats")
    edit(tmp_path / "cats", **changes)
    with pytest.raises(UserError, match=message):
        bundle.read(tmp_path / "cats")


def test_an_edited_manifest(tmp_path):
    write(tmp_path / "cats")
    path = tmp_path / "cats" / "manifest.json"
    path.write_text(path.read_text().replace('"dog"', '"wolf"'))
    with pytest.raises(UserError, match="was edited"):
        bundle.read(tmp_path / "cats")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", "[" * 100_000])
def test_manifests_that_are_no_json_object(text, tmp_path):
    write(tmp_path / "cats")
    (tmp_path / "cats" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json (cannot be read|is not a JSON object)"):
        bundle.read(tmp_path / "cats")


def test_a_linked_folder_on_the_way_to_a_file(tmp_path):
    """The manifest's name stays inside, the bytes would not."""
    write(tmp_path / "cats", files={"weights/model.onnx": WEIGHTS})
    (tmp_path / "cats" / "weights").rename(tmp_path / "elsewhere")
    (tmp_path / "cats" / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"'weights/model\.onnx' of the manifest is missing"):
        bundle.read(tmp_path / "cats")


def test_a_bundle_may_be_reached_by_a_link(tmp_path):
    written = write(tmp_path / "cats")
    (tmp_path / "link").symlink_to(tmp_path / "cats")
    assert bundle.read(tmp_path / "link") == written


@pytest.mark.parametrize(
    ("adapter", "name"), [("onnx", "model.onnx"), ("darknet", "model.cfg"), ("mmdet", "config.json")]
)
def test_a_runtime_reads_no_file_that_the_digest_does_not_cover(adapter, name, tmp_path):
    write(tmp_path / "cats", adapter=adapter, files={"notes.txt": b""})
    (tmp_path / "cats" / name).write_bytes(WEIGHTS)  # there, but not in the manifest
    with pytest.raises(UserError, match=f"manifest.json: files: '{name}' is missing"):
        open_detector(tmp_path / "cats")


def test_no_bundle(tmp_path):
    with pytest.raises(UserError, match="is not a bundle"):
        bundle.read(tmp_path)
    with pytest.raises(UserError, match="is not a bundle"):
        bundle.read(tmp_path / "absent")
