"""Darknet detectors: a network with known answers, and files that lie."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition.errors import UserError
from model_zoo.adapters import darknet_cfg
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.importing import import_teacher
from tests.model_zoo.adapters.networks import CFG, save_darknet

NAMES = ("ant", "bee")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def opened(tmp_path, inference=None):
    model = save_darknet(tmp_path / "source")
    import_teacher(model, classes=NAMES, name="net", destination=tmp_path / "bundle")
    return open_detector(tmp_path / "bundle", inference or InferenceSettings())


@pytest.mark.parametrize("brightness", [0, 100, 255])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 128), (1, 1), (20, 600)])
def test_known_boxes(brightness, height, width, tmp_path):
    image = np.full((height, width, 3), brightness, np.uint8)
    table = opened(tmp_path).predict([image])
    # cells of 32 x 32 pixels, the anchor of 32 x 16 in the middle of each
    boxes = [[x, y + 8, x + 32, y + 24] for x in (0, 32) for y in (0, 32)]
    expected = np.array(boxes) / 64 * [width, height, width, height]
    np.testing.assert_allclose(table.boxes, expected, rtol=1e-4, atol=1e-4)
    score = sigmoid(2 + 3 * brightness / 255) * sigmoid(3)
    np.testing.assert_allclose(table.score, [score] * 4, atol=1e-5)
    assert table.class_id.tolist() == [0] * 4


def test_low_scores_are_not_lost(tmp_path):
    """OpenCV alone would drop what scores below 0.2."""
    white = np.full((64, 64, 3), 255, np.uint8)
    table = opened(tmp_path, InferenceSettings(score_floor=0.01)).predict([white])
    np.testing.assert_allclose(
        np.unique(table.score), [sigmoid(5) * sigmoid(-3), sigmoid(5) * sigmoid(3)], rtol=1e-4
    )


def test_a_batch_equals_one_by_one(tmp_path):
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(9, 90), (64, 64), (1, 1), (70, 7)]
    ]
    detector = opened(tmp_path, InferenceSettings(threads=2))
    table = detector.predict(images)
    assert table.image_id.tolist() == np.repeat(range(4), 4).tolist()
    for index, image in enumerate(images):
        alone = detector.predict([image])
        np.testing.assert_array_equal(table[table.image_id == index].boxes, alone.boxes)
        np.testing.assert_array_equal(table[table.image_id == index].score, alone.score)
    assert len(detector.predict([])) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[maxpool]", "[lstm]", r"line 8, \[lstm\]: sections of this kind are not read"),
        ("[net]", "[nat]", r"begins with \[net\]"),
        ("width=64", "width=0", "width is 0, not in 32..8192"),
        ("width=64", "width=1000000000", "width is 1000000000, not in 32..8192"),
        ("width=64", "", "width is None, not a whole number"),
        ("channels=3", "channels=1", "channels is 1"),
        ("stride=32", "stride=0", "stride is 0"),
        ("size=32", "size=-1", "size is -1"),
        ("size=32", "size=128", "its output is empty"),
        ("filters=14", "filters=many", "filters is 'many', not a whole number"),
        ("filters=14", "filters=21", "21 channels come in, 2 anchors of 2 classes need 14"),
        ("filters=14", "filters=14\ngroups=4", "do not split into 4 groups"),
        ("filters=14", "filters=14\ndilation=2", "OpenCV does not know dilation=2"),
        ("pad=0", "batch_normalize=7", "batch_normalize is 7"),
        ("classes=2", "classes=3", "14 channels come in, 2 anchors of 3 classes need 16"),
        ("classes=2", "classes=0", "classes is 0"),
        ("mask=0,1", "mask=0,7", "asks for more than its 3 anchors"),
        ("mask=0,1", "mask=", "mask is '', not a list of numbers"),
        ("anchors=32,16,", "anchors=nan,", "anchors is 'nan, 10,40, 60,60', not a list of numbers"),
        ("[yolo]", "[route]\nlayers=-9\n[yolo]", "layer -9 does not exist"),
        ("[yolo]", "[route]\nlayers=0,1,99\n[yolo]", "layer 99 does not exist"),
        ("[yolo]", "[shortcut]\nfrom=-5\n[yolo]", "layer -5 does not exist"),
        ("[yolo]", "[upsample]\nstride=32\n" * 4 + "[yolo]", "would take more than 1 GB"),
        ("[yolo]", "[dropout]\n#", r"has no \[yolo\] section"),
        ("[yolo]", "gibberish\n[yolo]", "expected `key=value`, found 'gibberish'"),
        ("[net]", "a=b\n[net]", "expected `key=value`"),
        (CFG, "", "is not a darknet .cfg: 0 sections"),
        (CFG, "[net]\n" + "[dropout]\n" * 3000, "is not a darknet .cfg: 3001 sections"),
        ("size=1", "size=3\npadding=1", "is cut off: it has 244 bytes, the network of the .cfg needs 1588"),
        ("activation=linear", "activation=sinus", "OpenCV cannot run this network"),
    ],
)
def test_hostile_cfg(old, new, message, tmp_path):
    assert old in CFG
    model = save_darknet(tmp_path / "source", cfg=CFG.replace(old, new))
    with pytest.raises(UserError, match=message):
        import_teacher(model, classes=NAMES, name="net", destination=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_mutated_cfg_never_crashes(data):
    """Numbers and lines at random, weights that fit: a clear error or a detector, nothing else."""
    lines = CFG.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(lines) - 1))
        key = lines[position].partition("=")[0]
        value = data.draw(
            st.sampled_from(["0", "-1", "1", "2", "3", "7", "64", "1e9", "9" * 11, "", "x", "1,2"])
        )
        other = data.draw(
            st.sampled_from([*lines, "[route]", "[shortcut]", "[upsample]", "layers=-1", "from=-2"])
        )
        lines[position] = data.draw(st.sampled_from([f"{key}={value}", other, f"{lines[position]}\n{other}"]))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError):
        model = save_darknet(Path(folder) / "source", cfg="\n".join(lines))
        network = darknet_cfg.parse(model)
        values = np.linspace(-1, 1, min(network.parameters, 100_000), dtype=np.float32)
        model.with_suffix(".weights").write_bytes(bytes([0] * 4 + [2] + [0] * 15) + values.tobytes())
        names = [f"class {index}" for index in range(min(network.classes, 100))]
        import_teacher(model, classes=names, name="net", destination=Path(folder) / "bundle")


@pytest.mark.parametrize(
    ("cut", "extra", "state"),
    [(1, b"", "cut off"), (60, b"", "cut off"), (244, b"", "cut off"), (0, b"\0\0\0\0", "too long")],
)
def test_weights_of_the_wrong_size(cut, extra, state, tmp_path):
    model = save_darknet(tmp_path / "source", extra=extra)
    weights = model.with_suffix(".weights")
    weights.write_bytes(weights.read_bytes()[: 244 + len(extra) - cut])
    with pytest.raises(
        UserError, match=rf"net\.weights is {state}: it has {244 + len(extra) - cut} bytes, .* needs 2\d\d"
    ):
        import_teacher(model, classes=NAMES, name="net", destination=tmp_path / "bundle")


def test_cut_real_weights(data_dir, tmp_path):
    source = data_dir / "teachers" / "yolo_fastest_xl_voc"
    weights = tmp_path / "cut.weights"
    weights.write_bytes((source / "yolo-fastest-xl.weights").read_bytes()[:-1000])
    with pytest.raises(
        UserError, match=r"is cut off: it has 3487044 bytes, the network of the \.cfg needs 3488044"
    ):
        import_teacher(
            source / "yolo-fastest-xl.cfg",
            classes=data_dir / "teachers" / "voc.names",
            name="net",
            destination=tmp_path / "bundle",
            weights=weights,
        )


def test_thresholds_are_set_in_every_yolo_section(tmp_path):
    cfg = CFG.replace("num=3", "num=3\nthresh=.9\nnms_threshold=.1\nthresh = 0.5")
    network = darknet_cfg.parse(save_darknet(tmp_path, cfg=cfg))
    text = darknet_cfg.render(network, 0.001).decode()
    assert text.count("thresh=0.001\n") == 1
    assert "nms_threshold" not in text
    assert (network.width, network.height, network.classes, network.parameters) == (64, 64, 2, 56)
