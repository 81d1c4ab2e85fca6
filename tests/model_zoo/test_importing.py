"""Importing detectors: what is told by the file, what must be said, what is refused."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.registry import open_detector
from model_zoo.class_lists import read_classes
from model_zoo.importing import import_teacher
from tests.model_zoo.adapters.networks import POINTS, SIDE, save_darknet, save_onnx, yolov8

NAMES = ("ant", "bee", "cow")
F = np.float32


def classes(count):
    return [f"class {index}" for index in range(count)]


def add(model, tmp_path, **options):
    options = {"classes": NAMES, "name": "net", "destination": tmp_path / "bundle", **options}
    return import_teacher(model, **options)


def tree(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


# --- class lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.names", "ant\nbee\ncow\n"),
        ("a.txt", "ant\r\n bee \r\ncow\r\n\r\n"),
        ("a.names", "\ufeffant\nbee\ncow"),
        ("a.json", '["ant", "bee", "cow"]'),
        (
            "a.json",
            '{"categories": [{"id": 7, "name": "cow"}, {"id": 1, "name": "ant"}, {"id": 3, "name": "bee"}]}',
        ),
    ],
)
def test_class_lists(file, text, tmp_path):
    (tmp_path / file).write_bytes(text.encode())
    assert read_classes(tmp_path / file) == NAMES
    assert read_classes(list(NAMES)) == NAMES


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.names", b"", r"a\.names: no class names"),
        ("a.names", b"ant\n\ncow\n", r"a\.names: class 2 is blank"),
        ("a.names", b"ant\nbee\nant\n", r"a\.names: class name 'ant' appears twice \(classes 1 and 3\)"),
        ("a.names", b"\xff\xfe\x00", "is not a readable text file"),
        ("a.json", b"[", "is not JSON"),
        ("a.json", b'["ant", 3]', "holds neither a list of names nor COCO categories"),
        ("a.json", b'{"images": []}', "holds neither a list of names nor COCO categories"),
        ("a.json", b'{"categories": [{"id": "x", "name": "ant"}]}', "holds neither"),
        ("a.json", b"3", "holds neither"),
        ("a.json", b"[]", "no class names"),
        ("a.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_bad_class_lists(file, content, message, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / file)


def test_class_list_that_is_no_list(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_classes(tmp_path / "absent.names")
    with pytest.raises(UserError, match="is not a readable text file"):
        read_classes(tmp_path)
    with pytest.raises(UserError, match="one text instead of a list"):
        read_classes("ant")


# --- what an ONNX file tells -----------------------------------------------------------------------

LEVELS = {8: 64, 16: 16, 32: 4}
NANODET = {f"cls_{stride}": np.zeros((cells, 3), F) for stride, cells in LEVELS.items()} | {
    f"dis_{stride}": np.zeros((cells, 32), F) for stride, cells in LEVELS.items()
}
END2END = {"boxes": np.zeros((9, 4), F), "scores": np.zeros(9, F), "labels": np.zeros(9, np.int64)}


@pytest.mark.parametrize(
    ("outputs", "count", "decoder", "resize", "color"),
    [
        ({"o": np.zeros((POINTS, 5 + 3), F)}, 3, "yolox", "letterbox", "bgr"),
        ({"o": np.zeros((POINTS, 5 + 80), F)}, 80, "yolox", "letterbox", "bgr"),
        ({"o": np.zeros((4 + 70, POINTS), F)}, 70, "yolov8", "letterbox_center", "rgb"),
        ({"o": np.zeros((4 + 1, POINTS), F)}, 1, "yolov8", "letterbox_center", "rgb"),
        (NANODET, 3, "nanodet", "stretch", "bgr"),
        ({"o": np.zeros((8, 4, 4), F)}, 3, "fastestdet", "stretch", "bgr"),
        ({"o": np.zeros((300, 6), F)}, 17, "end2end", "letterbox_center", "rgb"),
        (END2END, 2, "end2end", "letterbox_center", "rgb"),
    ],
)
@pytest.mark.parametrize("say", [False, True])
def test_the_layout_is_told_by_the_shapes(outputs, count, decoder, resize, color, say, tmp_path):
    model = save_onnx(tmp_path / "m.onnx", outputs)
    manifest = add(model, tmp_path, classes=classes(count), decoder=decoder if say else None)
    assert manifest.output.decoder == decoder
    assert (manifest.input.resize, manifest.input.color) == (resize, color)
    assert (manifest.input.height, manifest.input.width) == (SIDE, SIDE)
    assert bundle.read(tmp_path / "bundle") == manifest
    image = np.zeros((20, 30, 3), np.uint8)
    table = open_detector(tmp_path / "bundle").predict([image, image])
    assert set(table.image_id.tolist()) <= {0, 1}


def test_decoded_rows_are_told_from_raw_ones_by_their_values(tmp_path):
    """(batch, anchor points, columns) is YOLOX or a transposed YOLOv8, whatever the class list says."""
    decoded = yolov8(tmp_path / "m.onnx", [], 3, transposed=True)
    assert add(decoded, tmp_path).output.decoder == "yolov8"
    with pytest.raises(UserError, match="2 names, the network 3 classes"):
        add(decoded, tmp_path, classes=classes(2), destination=tmp_path / "other")
    with pytest.raises(UserError, match="decoded already"):
        add(decoded, tmp_path, classes=classes(2), decoder="yolox", destination=tmp_path / "other")


@pytest.mark.parametrize(
    ("outputs", "decoder", "message"),
    [
        (
            {"o": np.zeros((POINTS, 8), F)},
            None,
            r"m\.onnx: the class list has 4 names, the network 3 classes",
        ),
        ({"o": np.zeros((7, POINTS), F)}, None, "4 names, the network 3 classes"),
        ({"o": np.zeros((7, POINTS), F)}, "yolov8", "4 names, the network 3 classes"),
        (NANODET, None, "4 names, the network 3 classes"),
        ({"o": np.zeros((8, 4, 4), F)}, None, "4 names, the network 3 classes"),
        (
            {"o": np.zeros((8, 4, 4), F)},
            "yolox",
            r"'yolox' does not fit the network's outputs \(o \(1, 8, 4, 4\)\)",
        ),
        ({"o": np.zeros((8, 4, 4), F)}, "yolov5", r"unknown decoder 'yolov5'\nChoose one of: yolox, nanodet"),
        (
            {"o": np.zeros(1000, F)},
            None,
            r"\(o \(1, 1000\)\) are of no known layout\nSay which with --decoder: yolox",
        ),
        ({"a": np.zeros((8, 4, 4), F), "b": np.zeros((9, 9), F)}, None, "are of no known layout"),
    ],
)
def test_layouts_that_do_not_fit(outputs, decoder, message, tmp_path):
    model = save_onnx(tmp_path / "m.onnx", outputs)
    with pytest.raises(UserError, match=message):
        add(model, tmp_path, classes=classes(4), decoder=decoder)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("metadata", "side", "message"),
    [
        ({"imgsz": "[64, 64]", "task": "detect", "names": "{0: 'a', 1: 'b', 2: 'c'}"}, "size", None),
        ({"names": "gibberish("}, SIDE, None),
        ({"names": "-" * 100_000 + "1"}, SIDE, None),
        ({"names": "(" * 1000}, SIDE, None),
        ({"imgsz": "[1e999, 64]"}, "size", "the input has no fixed height and width"),
        ({}, "size", "the input has no fixed height and width"),
        ({"imgsz": "[64]"}, "size", "the input has no fixed height and width"),
        ({"imgsz": "__import__('os').getcwd()"}, "size", "the input has no fixed height and width"),
        ({"imgsz": "[64, 99999]"}, "size", "99999 x 64 pixels, at most 8192"),
        ({"task": "segment"}, SIDE, "is a model for 'segment'"),
        ({"names": "{0: 'a', 1: 'b'}"}, SIDE, "class list has 3 names, the network 2 classes"),
    ],
)
def test_what_the_exporter_wrote(metadata, side, message, tmp_path):
    model = save_onnx(tmp_path / "m.onnx", {"o": np.zeros((300, 6), F)}, side=side, metadata=metadata)
    if message is None:
        assert add(model, tmp_path).input.height == SIDE
    else:
        with pytest.raises(UserError, match=message):
            add(model, tmp_path)


# --- damaged and unsuitable files ------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_onnx_file(share, data_dir, tmp_path):
    whole = (data_dir / "teachers" / "fastestdet_coco" / "FastestDet.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"m\.onnx (is not a readable ONNX file|cannot be run)"):
        add(tmp_path / "m.onnx", tmp_path, classes=data_dir / "teachers" / "coco.names")


def test_damaged_onnx_files_never_crash(tmp_path):
    """Flipped bytes: a clear error, or a network that still runs."""
    whole = yolov8(tmp_path / "m.onnx", [(32, 32, 16, 8, 1, 0.9)], 3).read_bytes()
    generator = random.Random(0)
    for index in range(60):
        content = bytearray(whole)
        for _ in range(3):
            # the head of the file holds the structure, the rest is weights
            content[generator.randrange(len(content) // 4)] = generator.randrange(256)
        (tmp_path / "bad.onnx").write_bytes(content)
        with contextlib.suppress(UserError):
            add(tmp_path / "bad.onnx", tmp_path, destination=tmp_path / f"bundle{index}")
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_weights_in_other_files(tmp_path):
    path = yolov8(tmp_path / "m.onnx", [], 3)
    onnx.save(onnx.load(path), tmp_path / "ext.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(
        UserError, match="lies in another file, a bundle needs all weights inside\nConvert it"
    ):
        add(tmp_path / "ext.onnx", tmp_path)


@pytest.mark.parametrize("field", ["t", "sparse_tensor"])
@pytest.mark.parametrize("place", ["node", "function"])
def test_constants_in_other_files(field, place, tmp_path):
    """onnxruntime would read the file that a hostile model names."""
    model = onnx.load(yolov8(tmp_path / "m.onnx", [], 3))
    tensor = TensorProto(name="passwords", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add(name="value")
    if field == "t":
        attribute.t.CopyFrom(tensor)
    else:
        attribute.sparse_tensor.values.CopyFrom(tensor)
    nodes = [node]
    if place == "node":
        model.graph.node.append(node)
    else:
        model.functions.append(
            helper.make_function("d", "f", [], ["c"], nodes, [helper.make_opsetid("", 13)])
        )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="weight 'passwords' lies in another file"):
        add(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("images", TensorProto.FLOAT, [1, SIDE, SIDE, 3])], "takes images"),
        ([("images", TensorProto.FLOAT, [1, 1, SIDE, SIDE])], "takes images"),
        ([("images", TensorProto.INT64, [1, 3, SIDE, SIDE])], "takes images"),
        ([("images", TensorProto.FLOAT, [1, 3])], "takes images"),
        (
            [
                ("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE]),
                ("size", TensorProto.FLOAT, [1, 3, SIDE, SIDE]),
            ],
            r"takes images .*, size",
        ),
    ],
)
def test_inputs_that_are_no_picture(inputs, message, tmp_path):
    values = [helper.make_tensor_value_info(*value) for value in inputs]
    nodes = [helper.make_node("Sum", [value.name for value in values], ["o"])]
    if inputs[0][1] == TensorProto.INT64:
        nodes = [helper.make_node("Identity", ["images"], ["o"])]
    outputs = [helper.make_tensor_value_info("o", *inputs[0][1:])]
    graph = helper.make_graph(nodes, "g", values, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    with pytest.raises(UserError, match=message):
        add(tmp_path / "m.onnx", tmp_path)


def test_operators_that_nobody_knows(tmp_path):
    model = onnx.load(yolov8(tmp_path / "m.onnx", [], 3))
    model.graph.node[0].op_type = "Teleport"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx cannot be run"):
        add(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("absent.onnx", {}, "does not exist"),
        ("absent.cfg", {}, "does not exist"),
        ("model.pt", {}, "is not a readable checkpoint"),
        ("", {}, "is not a model that can be imported"),
        ("net.cfg", {"decoder": "yolox"}, "Only ONNX models have a decoder"),
        ("net.cfg", {"weights": "absent.weights"}, r"absent\.weights does not exist"),
        ("net.cfg", {}, "class list has 3 names, the network 2 classes"),
        ("m.onnx", {"weights": "m.onnx"}, "holds its weights inside"),
        ("m.onnx", {"name": "Bad Name"}, "name: .*use 1 to 64 lower-case letters"),
        ("m.onnx", {"destination": "m.onnx/bundle"}, "is a file, not a folder"),
        ("m.onnx", {"destination": "full"}, "is in the way"),
        ("m.onnx", {"destination": "net.cfg"}, "is in the way"),
    ],
)
def test_wrong_arguments(file, options, message, tmp_path):
    save_darknet(tmp_path)
    yolov8(tmp_path / "m.onnx", [], 3)
    (tmp_path / "model.pt").write_bytes(b"pickle")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("keep")
    for key in ("weights", "destination"):
        if key in options:
            options = {**options, key: tmp_path / options[key]}
    with pytest.raises(UserError, match=message):
        add(tmp_path / file, tmp_path, **options)
    assert (tmp_path / "full" / "precious").read_text() == "keep"


# --- identity --------------------------------------------------------------------------------------


def test_the_same_twice_writes_nothing(tmp_path):
    model = yolov8(tmp_path / "m.onnx", [], 3)
    first = add(model, tmp_path, license="MIT", provenance={"url": "example"})
    assert first.provenance == {"model": "m.onnx", "url": "example"}
    before = tree(tmp_path / "bundle")
    second = add(model, tmp_path, license="Apache-2.0")
    assert tree(tmp_path / "bundle") == before
    assert second == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "m.onnx"]


@pytest.mark.parametrize("change", ["classes", "weights", "decoder"])
def test_the_same_name_for_another_detector(change, tmp_path):
    model = yolov8(tmp_path / "m.onnx", [], 3)
    add(model, tmp_path)
    before = tree(tmp_path / "bundle")
    options = {}
    if change == "classes":
        options["classes"] = NAMES[::-1]
    elif change == "weights":
        yolov8(model, [(1, 1, 1, 1, 0, 1)], 3)
    else:
        save_onnx(model, {"o": np.zeros((300, 6), F)})
    with pytest.raises(UserError, match="the name 'net' is taken by another detector"):
        add(model, tmp_path, **options)
    assert tree(tmp_path / "bundle") == before
