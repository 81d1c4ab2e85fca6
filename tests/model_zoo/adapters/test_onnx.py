"""ONNX detectors with known answers: exact boxes, any size, any batch."""

from __future__ import annotations

import numpy as np
import pytest

from composition import detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.bundle import InputSpec, OutputSpec
from model_zoo.importing import import_teacher
from tests.model_zoo.adapters.networks import SIDE, save_onnx, yolov8

NAMES = ("ant", "bee", "cow")
WHITE = np.full((SIDE, SIDE, 3), 255, np.uint8)
F, I64, I32 = np.float32, np.int64, np.int32


def opened(model, tmp_path, settings=None, **options):
    options = {"classes": NAMES, "name": "net", **options}
    import_teacher(model, destination=tmp_path / "bundle", **options)
    return open_detector(tmp_path / "bundle", settings or InferenceSettings())


def photographs(sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def assert_rows(table, boxes, scores, classes):
    np.testing.assert_allclose(table.boxes, np.array(boxes, F).reshape(-1, 4), atol=1e-4)
    np.testing.assert_allclose(table.score, scores, atol=1e-5)
    assert table.class_id.tolist() == list(classes)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", ["n", 1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "boxes", "scores", "classes"),
    [
        ([], [], [], []),
        ([(32, 32, 16, 8, 1, 0.9)], [[24, 28, 40, 36]], [0.9], [1]),
        # sorted by score; below the floor of 0.05 nothing comes back
        (
            [(10, 10, 4, 4, 0, 0.3), (50, 50, 8, 8, 2, 0.8), (30, 30, 8, 8, 2, 0.04)],
            [[46, 46, 54, 54], [8, 8, 12, 12]],
            [0.8, 0.3],
            [2, 0],
        ),
        # the same box: suppressed within a class, kept in another
        (
            [(32, 32, 16, 16, 1, 0.9), (33, 32, 16, 16, 1, 0.8), (32, 32, 16, 16, 0, 0.7)],
            [[24, 24, 40, 40], [24, 24, 40, 40]],
            [0.9, 0.7],
            [1, 0],
        ),
        # clipped to the image; a box wholly outside disappears
        ([(0, 60, 20, 20, 0, 0.5), (-40, 10, 20, 20, 0, 0.6)], [[0, 50, 10, 64]], [0.5], [0]),
        # what is not finite or has no area disappears
        ([(np.inf, 1, 2, 3, 0, 0.9), (np.nan, 1, 2, 3, 0, 0.9), (9, 9, 0, 9, 0, 0.9)], [], [], []),
    ],
)
def test_yolov8(rows, boxes, scores, classes, batch, transposed, tmp_path):
    model = yolov8(tmp_path / "m.onnx", rows, 3, transposed=transposed, batch=batch)
    assert_rows(opened(model, tmp_path).predict([WHITE]), boxes, scores, classes)


BOXES = np.array([[8, 8, 24, 40], [0, 0, 16, 16], [30, 30, 30, 60], [0, 0, 0, 0]], F)
SCORES = np.array([0.6, 0.9, 0.8, 0], F)
LABELS = np.array([2, 0, 1, -1])
ROWS = np.concatenate([BOXES, SCORES[:, None], LABELS[:, None].astype(F)], axis=1)


@pytest.mark.parametrize(
    ("outputs", "kept"),
    [
        ({"output0": ROWS}, 2),
        ({"boxes": BOXES, "scores": SCORES, "labels": LABELS}, 2),
        ({"labels": LABELS.astype(I32), "boxes": BOXES, "scores": SCORES}, 2),
        ({"a": SCORES[:, None], "b": LABELS[:, None], "c": BOXES}, 2),
        ({"classes": LABELS.astype(F), "x": SCORES, "boxes": BOXES}, 2),
        ({"b": BOXES, "first": SCORES, "second": LABELS.astype(F)}, 2),
        (
            {"num_dets": np.array([2], I32), "boxes": BOXES, "scores": SCORES, "classes": LABELS.astype(I32)},
            2,
        ),
        (
            {"num_dets": np.array([1], I32), "boxes": BOXES, "scores": SCORES, "classes": LABELS.astype(I32)},
            1,
        ),
        ({"dets": np.concatenate([BOXES, SCORES[:, None]], axis=1), "labels": LABELS}, 2),
    ],
)
@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_end2end(outputs, kept, batch, tmp_path):
    detector = opened(save_onnx(tmp_path / "m.onnx", outputs, batch=batch), tmp_path)
    expected = [([0, 0, 16, 16], 0.9, 0), ([8, 8, 24, 40], 0.6, 2)]
    if kept == 1:
        expected = expected[1:]
    for images in ([WHITE], [WHITE] * 5):
        table = detector.predict(images)
        assert table.image_id.tolist() == np.repeat(range(len(images)), kept).tolist()
        assert_rows(table, *(list(column) for column in zip(*(expected * len(images)), strict=True)))


@pytest.mark.parametrize("offset", [0, 1])
def test_classes_outside_the_vocabulary(offset, tmp_path):
    model = save_onnx(tmp_path / "m.onnx", {"o": np.array([[8, 8, 24, 40, 0.9, 3]], F)})
    import_teacher(model, classes=NAMES, name="net", destination=tmp_path / "bundle")
    manifest = bundle.read(tmp_path / "bundle")
    bundle.write(
        tmp_path / "shifted",
        name="net",
        adapter="onnx",
        vocabulary=NAMES,
        input=manifest.input,
        output=OutputSpec(decoder="end2end", nms_iou=None, class_offset=offset),
        files={"model.onnx": model},
    )
    detector = open_detector(tmp_path / "shifted")
    if offset:
        assert detector.predict([WHITE]).class_id.tolist() == [2]
    else:
        with pytest.raises(UserError, match="class number 3, but its vocabulary has 3 classes"):
            detector.predict([WHITE])


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        # a box of 24..40 x 28..36 on a 64 x 64 canvas
        ("stretch", (64, 64), [24, 28, 40, 36]),
        ("stretch", (128, 32), [12, 56, 20, 72]),
        ("letterbox", (32, 64), [24, 28, 40, 32]),
        ("letterbox", (64, 32), [24, 28, 32, 36]),
        ("letterbox_center", (32, 64), [24, 12, 40, 20]),
        ("letterbox_center", (64, 32), [8, 28, 24, 36]),
        ("letterbox_center", (64, 128), [48, 24, 80, 40]),
        ("letterbox_center", (1, 1), [0.375, 0.4375, 0.625, 0.5625]),
        # 20 x 600 becomes 2 rows of 64: rows 31 and 32, so y is scaled by 10
        ("letterbox_center", (20, 600), [225, 0, 375, 20]),
        ("letterbox_center", (600, 20), [0, 262.5, 20, 337.5]),
        ("stretch", (1, 6000), [2250, 0.4375, 3750, 0.5625]),
    ],
)
def test_boxes_come_back_to_the_image(resize, size, expected, tmp_path):
    model = yolov8(tmp_path / "m.onnx", [(32, 32, 16, 8, 1, 0.9)], 3)
    bundle.write(
        tmp_path / "bundle",
        name="net",
        adapter="onnx",
        vocabulary=NAMES,
        input=InputSpec(height=SIDE, width=SIDE, resize=resize, std=(255.0, 255.0, 255.0), pad_value=255),
        output=OutputSpec(decoder="yolov8"),
        files={"model.onnx": model},
    )
    table = open_detector(tmp_path / "bundle").predict([np.full((*size, 3), 255, np.uint8)])
    assert_rows(table, [expected], [0.9], [1])


SIZES = [(64, 64), (20, 600), (1, 1), (600, 20), (31, 97), (480, 360), (64, 64), (2, 900), (13, 14)]


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_of_mixed_sizes_equals_one_by_one(batch, threads, tmp_path):
    rows = [(32, 32, 16, 8, 1, 0.9), (12, 30, 16, 8, 0, 0.7), (40, 40, 30, 30, 2, 0.8)]
    model = yolov8(tmp_path / "m.onnx", rows, 3, batch=batch)
    detector = opened(model, tmp_path, InferenceSettings(threads=threads, score_floor=0.01))
    images = photographs(SIZES * 3)
    table = detector.predict(images)
    alone = [detector.predict([image]) for image in images]
    assert len(table) > len(images)
    assert table.image_id.tolist() == np.repeat(range(len(images)), [len(part) for part in alone]).tolist()
    one_by_one = detections.concatenate(alone)
    np.testing.assert_allclose(table.boxes, one_by_one.boxes, atol=1e-3)
    np.testing.assert_allclose(table.score, one_by_one.score, atol=1e-6)
    np.testing.assert_array_equal(table.class_id, one_by_one.class_id)
    sizes = {index: image.shape[1::-1] for index, image in enumerate(images)}
    detections.validate(table, sizes, len(NAMES), "test")
    assert len({round(float(score), 6) for score in table.score}) > len(SIZES), "scores follow the image"


def test_limits(tmp_path):
    rows = [(x, y, 4, 4, 0, (x + y) / 128) for x in range(4, 64, 8) for y in range(4, 64, 8)]
    model = yolov8(tmp_path / "m.onnx", rows, 3)
    detector = opened(model, tmp_path, InferenceSettings(score_floor=0.5, max_detections=7))
    table = detector.predict([WHITE, WHITE])
    assert len(table) == 14
    assert (np.diff(table.score[:7]) <= 0).all()
    assert table.score.min() >= 0.5
    assert len(detector.predict([])) == 0


def test_colour_order_and_normalisation_reach_the_network(tmp_path):
    # brightness of a pure red picture: (255 - 51) / 102 in one channel, (0 - mean) / std in the others
    model = yolov8(tmp_path / "m.onnx", [(32, 32, 16, 8, 1, 0.9)], 3)
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[..., 0] = 255
    for color, mean, std, brightness in [
        ("rgb", (51.0, 0.0, 0.0), (102.0, 255.0, 255.0), 2 / 3),
        ("bgr", (0.0, 0.0, 0.0), (255.0, 255.0, 510.0), 0.5 / 3),
        ("bgr", (-51.0, 0.0, 0.0), (255.0, 255.0, 255.0), (0.2 + 1) / 3),
    ]:
        bundle.write(
            tmp_path / "bundle",
            name="net",
            adapter="onnx",
            vocabulary=NAMES,
            input=InputSpec(height=SIDE, width=SIDE, color=color, mean=mean, std=std),
            output=OutputSpec(decoder="yolov8"),
            files={"model.onnx": model},
        )
        table = open_detector(tmp_path / "bundle").predict([red])
        np.testing.assert_allclose(table.score, [0.9 * brightness], rtol=1e-5)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_picture_is_refused(image, tmp_path):
    detector = opened(yolov8(tmp_path / "m.onnx", [], 3), tmp_path)
    with pytest.raises(UserError, match="cannot be detected on"):
        detector.predict([WHITE, image])
    assert len(detector.predict([WHITE] * 9)) == 0  # and the detector still works


@pytest.mark.parametrize(
    ("output", "vocabulary", "message"),
    [
        (OutputSpec(decoder="yolov9"), NAMES, r"output\.decoder is 'yolov9'"),
        (OutputSpec(), NAMES, r"output\.decoder is None"),
        (OutputSpec(decoder="nanodet"), NAMES, "'nanodet' does not fit the network's outputs"),
        (OutputSpec(decoder="yolov8"), NAMES[:2], "class list has 2 names, the network 3 classes"),
    ],
)
def test_bundles_made_by_others_are_checked(output, vocabulary, message, tmp_path):
    bundle.write(
        tmp_path / "bundle",
        name="net",
        adapter="onnx",
        vocabulary=vocabulary,
        input=InputSpec(height=SIDE, width=SIDE),
        output=output,
        files={"model.onnx": yolov8(tmp_path / "m.onnx", [], 3)},
    )
    with pytest.raises(UserError, match=message):
        open_detector(tmp_path / "bundle").predict([WHITE])


def test_a_size_that_the_network_does_not_take(tmp_path):
    bundle.write(
        tmp_path / "bundle",
        name="net",
        adapter="onnx",
        vocabulary=NAMES,
        input=InputSpec(height=32, width=SIDE),
        output=OutputSpec(decoder="yolov8"),
        files={"model.onnx": yolov8(tmp_path / "m.onnx", [], 3)},
    )
    with pytest.raises(UserError, match="failed on an input of shape"):
        open_detector(tmp_path / "bundle").predict([WHITE])


def test_half_precision(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    path = yolov8(tmp_path / "m.onnx", [(32, 32, 16, 8, 1, 0.9)], 3, batch=2)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.input[0].name = "half"
    model.graph.node.insert(0, helper.make_node("Cast", ["half"], ["images"], to=TensorProto.FLOAT))
    onnx.save(model, path)
    table = opened(path, tmp_path).predict([WHITE] * 3)
    np.testing.assert_allclose(table.score, [0.9] * 3, rtol=1e-3)


def test_unknown_runtime(tmp_path):
    bundle.write(
        tmp_path / "bundle",
        name="net",
        adapter="pickle",
        vocabulary=NAMES,
        input=InputSpec(height=SIDE, width=SIDE),
        output=OutputSpec(),
        files={"model.pt": b"no"},
    )
    with pytest.raises(UserError, match=r"adapter is 'pickle'\nThis detcompose reads: onnx, darknet, mmdet"):
        open_detector(tmp_path / "bundle")


def test_changed_weights_are_not_opened(tmp_path):
    opened(yolov8(tmp_path / "m.onnx", [], 3), tmp_path)
    weights = tmp_path / "bundle" / "model.onnx"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="sha256 differs"):
        open_detector(tmp_path / "bundle")
