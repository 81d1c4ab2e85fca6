"""The mmdet adapter: bundles of real (small) detectors, one of them trained on the spot."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from composition import detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.mmdet import write_mmdet_bundle
from model_zoo.bundle import InputSpec
from model_zoo.mmdet_runtime import build_model, import_mmdet
from tests.model_zoo.adapters.mmdet_bundles import VOCABULARY, forged, open_bundle, untrained

SIZE = 96
STEPS = 70
SPEC = InputSpec(width=SIZE, height=SIZE, pad_value=30)
ARCHITECTURES = ["retinanet", "faster_rcnn", "atss", "fcos", "rtmdet", "yolox"]


def scene(generator, height, width, share=(0.3, 0.6)):
    """Noise with one bright rectangle: RGB pixels, its box and its class (the colour)."""
    image = generator.integers(0, 60, (height, width, 3)).astype(np.uint8)
    w, h = (int(generator.uniform(*share) * side) for side in (width, height))
    x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
    label = int(generator.integers(0, 3))
    image[y : y + h, x : x + w, label] = 230
    return image, [x, y, x + w, y + h], label


def train_step(model, scenes):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for _, box, label in scenes:
        sample = DetDataSample(metainfo={"img_shape": (SIZE, SIZE)})
        sample.gt_instances = InstanceData(bboxes=torch.tensor([box]).float(), labels=torch.tensor([label]))
        samples.append(sample)
    bgr = [torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()) for image, _, _ in scenes]
    data = model.data_preprocessor({"inputs": bgr, "data_samples": samples}, training=True)
    return model.parse_losses(model(**data, mode="loss"))[0]


@pytest.fixture(scope="module")
def trained(small_detector):
    """A model config and weights that tell red, green and blue rectangles apart."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    config = small_detector("atss")
    model = build_model(config)
    model.init_weights()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        loss = train_step(model, [scene(generator, SIZE, SIZE, (0.15, 0.6)) for _ in range(8)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        schedule.step()
    return config, model.state_dict()


def overlap(a, b):
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    area = [np.prod(np.subtract(box[2:], box[:2])) for box in (a, b)]
    return sides.prod() / (sum(area) - sides.prod())


@pytest.mark.parametrize("resize", ["letterbox", "letterbox_center", "stretch"])
def test_finds_what_is_there_at_any_aspect_ratio(trained, tmp_path, resize):
    spec = SPEC.model_copy(update={"resize": resize})
    manifest = write_mmdet_bundle(tmp_path / "b", "rectangles", *trained, VOCABULARY, spec)
    detector = open_bundle(tmp_path / "b", manifest, score_floor=0.1)
    assert detector.vocabulary == VOCABULARY
    generator = np.random.default_rng(1)
    scenes = [
        scene(generator, *shape)
        for shape in [(96, 96), (70, 180), (200, 90), (61, 113), (250, 300), (40, 40)]
    ]
    found = detector.predict([image for image, _, _ in scenes])
    for position, (_, box, label) in enumerate(scenes):
        best = found[found.image_id == position][:1]
        assert len(best), position
        assert best.class_id[0] == label
        assert overlap(best.boxes[0], np.array(box)) > 0.5


def test_a_batch_equals_its_images_one_by_one(trained, tmp_path):
    manifest = write_mmdet_bundle(tmp_path / "b", "rectangles", *trained, VOCABULARY, SPEC)
    detector = open_bundle(tmp_path / "b", manifest, score_floor=0.02)
    generator = np.random.default_rng(2)
    shapes = [(96, 96), (50, 140), (133, 71), (1, 1), (3, 400), (240, 320)]
    images = [
        scene(generator, *shape)[0] if min(shape) > 3 else np.zeros((*shape, 3), np.uint8) for shape in shapes
    ]
    together = detector.predict(images)
    assert len(together) > len(images)
    for position, image in enumerate(images):
        alone, batched = detector.predict([image]), together[together.image_id == position]
        np.testing.assert_array_equal(alone.class_id, batched.class_id)
        np.testing.assert_allclose(alone.boxes, batched.boxes, atol=1e-3)
        np.testing.assert_allclose(alone.score, batched.score, atol=1e-5)
    sizes = {position: shape[::-1] for position, shape in enumerate(shapes)}
    detections.validate(together, sizes, 3, "test")
    np.testing.assert_array_equal(detections.sort(together).boxes, together.boxes)
    assert len(detector.predict([])) == 0


def test_the_floor_and_the_number_of_boxes_are_the_callers(trained, tmp_path):
    manifest = write_mmdet_bundle(tmp_path / "b", "rectangles", *trained, VOCABULARY, SPEC)
    image, _, _ = scene(np.random.default_rng(3), 96, 96)
    everything = open_bundle(tmp_path / "b", manifest, score_floor=0.0, max_detections=300).predict([image])
    assert len(everything) > 20
    assert everything.score.min() < 0.05  # where the config alone would stop
    few = open_bundle(tmp_path / "b", manifest, score_floor=0.0, max_detections=5).predict([image])
    np.testing.assert_array_equal(few.score, everything.score[:5])
    sure = open_bundle(tmp_path / "b", manifest, score_floor=0.3, threads=1).predict([image])
    assert len(sure) == (everything.score >= 0.3).sum() > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_with_mmdets_own_rescaling(small_detector, tmp_path, name):
    """Same pixels straight into mmdet, which maps the boxes back itself."""
    import_mmdet()
    from mmdet.structures import DetDataSample

    config = small_detector(name)
    test_cfg = config["test_cfg"].get("rcnn", config["test_cfg"])
    test_cfg.update(score_thr=0.0, max_per_img=50)
    model = untrained(config)
    manifest = write_mmdet_bundle(tmp_path / "b", name, config, model.state_dict(), VOCABULARY, SPEC)
    assert bundle.read(tmp_path / "b") == manifest
    image = np.random.default_rng(4).integers(0, 255, (72, 144, 3)).astype(np.uint8)
    ours = open_bundle(tmp_path / "b", manifest, score_floor=0.0, max_detections=50).predict([image])

    resized = cv2.resize(image, (96, 48))
    padded = cv2.copyMakeBorder(resized, 0, 48, 0, 0, cv2.BORDER_CONSTANT, value=(30, 30, 30))
    sample = DetDataSample(
        metainfo={"img_shape": (48, 96), "ori_shape": (72, 144), "scale_factor": (96 / 144, 48 / 72)}
    )
    bgr = torch.from_numpy(padded[..., ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        data = model.eval().data_preprocessor({"inputs": [bgr], "data_samples": [sample]}, training=False)
        theirs = model(**data, mode="predict")[0].pred_instances
    table = detections.make(np.zeros(len(theirs)), theirs.bboxes, theirs.scores, theirs.labels)
    # YOLOX's head does not know max_per_img
    table = detections.sort(detections.clip(table, np.array([144]), np.array([72])))[:50]
    assert len(table) == len(ours) > 0
    np.testing.assert_allclose(np.sort(ours.score), np.sort(table.score), atol=1e-5)
    np.testing.assert_allclose(np.sort(ours.boxes, axis=0), np.sort(table.boxes, axis=0), atol=1e-2)


def test_same_weights_same_digest(small_detector, tmp_path):
    config = small_detector("yolox")
    state = untrained(config).state_dict()
    first, second = (
        write_mmdet_bundle(tmp_path / folder, "x", config, state, VOCABULARY, SPEC) for folder in "ab"
    )
    assert first.digest == second.digest
    assert first.input.color == "bgr"
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()


def test_the_manifest_tells_the_normalisation_of_the_config(small_detector, tmp_path):
    config = small_detector("fcos")
    manifest = write_mmdet_bundle(
        tmp_path / "b", "x", config, untrained(config).state_dict(), VOCABULARY, SPEC
    )
    assert manifest.input.color == "rgb"
    assert manifest.input.mean == (123.675, 116.28, 103.53)
    lying = manifest.model_copy(update={"input": SPEC})
    with pytest.raises(UserError, match="disagree on colour order"):
        open_bundle(tmp_path / "b", lying)


def test_initial_weights_are_never_fetched(small_detector, tmp_path):
    config = small_detector("fcos")
    state = untrained(config).state_dict()
    config["backbone"]["init_cfg"] = {
        "type": "Pretrained",
        "checkpoint": "https://example.invalid/resnet18.pth",
    }
    config["bbox_head"]["init_cfg"] = [{"type": "Pretrained", "checkpoint": "/etc/passwd"}]
    config["pretrained"] = "torchvision://resnet18"
    write_mmdet_bundle(tmp_path / "b", "x", config, state, VOCABULARY, SPEC)
    written = (tmp_path / "b" / "config.json").read_text()
    assert not any(word in written for word in ("init_cfg", "pretrained", "checkpoint"))


def test_says_and_writes_nothing(small_detector, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = small_detector("faster_rcnn")
    manifest = write_mmdet_bundle(
        tmp_path / "b", "x", config, untrained(config).state_dict(), VOCABULARY, SPEC
    )
    open_bundle(tmp_path / "b", manifest).predict([np.zeros((20, 30, 3), np.uint8)])
    assert list(folder.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            lambda s: s.pop("bbox_head.conv_centerness.weight"),
            r"lack 'bbox_head\.conv_centerness\.weight' of shape \[1, 32",
        ),
        (lambda s: s.update(extra=torch.zeros(2, 3)), r"hold 'extra' of shape \[2, 3\]"),
        (
            lambda s: s.update({"bbox_head.conv_cls.bias": torch.zeros(80)}),
            r"'bbox_head\.conv_cls\.bias' has shape \[80\], not \[3\]",
        ),
    ],
)
def test_weights_must_fit_exactly(small_detector, tmp_path, damage, complaint):
    config = small_detector("fcos")
    state = dict(untrained(config).state_dict())
    damage(state)
    with pytest.raises(UserError, match=complaint):
        write_mmdet_bundle(tmp_path / "b", "x", config, state, VOCABULARY, SPEC)
    assert not (tmp_path / "b").exists()
    manifest = forged(tmp_path / "b", {"model": config}, state)
    with pytest.raises(UserError, match=complaint):
        open_bundle(tmp_path / "b", manifest)


@pytest.mark.parametrize(
    ("config", "weights", "complaint"),
    [
        (b"{not json", b"", "config.json is not JSON"),
        (b"[" * 100_000, b"", "config.json is not JSON"),
        (b"[]", b"", "config.json is not a JSON object"),
        (b"{}", b"", "'model' is missing"),
        (None, b"\x80\x04 a pickle", "model.safetensors is not a safetensors file"),
    ],
)
def test_unreadable_files(small_detector, tmp_path, config, weights, complaint):
    manifest = forged(tmp_path / "b", config or {"model": small_detector("fcos")}, weights)
    with pytest.raises(UserError, match=complaint):
        open_bundle(tmp_path / "b", manifest)


def test_a_missing_file_is_named(small_detector, tmp_path):
    manifest = forged(tmp_path / "b", {"model": small_detector("fcos")}, {})
    (tmp_path / "b" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        open_bundle(tmp_path / "b", manifest)


@pytest.mark.parametrize(
    ("name", "key"),
    [("fcos", r"model\.bbox_head\.num_classes"), ("faster_rcnn", r"model\.roi_head\.bbox_head\.num_classes")],
)
def test_class_count(small_detector, tmp_path, name, key):
    config = small_detector(name)
    with pytest.raises(UserError, match=rf"{key} is 3, but the vocabulary has 2 class names"):
        write_mmdet_bundle(tmp_path / "b", "x", config, {}, ("one", "two"), SPEC)


def test_class_count_that_the_config_leaves_to_the_default(small_detector, tmp_path):
    config = small_detector("faster_rcnn")
    del config["roi_head"]["bbox_head"]["num_classes"]
    with pytest.raises(UserError, match="box head 1 is 80, but the vocabulary has 3"):
        write_mmdet_bundle(tmp_path / "b", "x", config, {}, VOCABULARY, SPEC)


def test_an_unknown_device_is_named(small_detector, tmp_path):
    config = small_detector("fcos")
    manifest = write_mmdet_bundle(
        tmp_path / "b", "x", config, untrained(config).state_dict(), VOCABULARY, SPEC
    )
    with pytest.raises(UserError, match="device 'gpu' cannot be used"):
        open_bundle(tmp_path / "b", manifest, device="gpu")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        # mmdet: SSDHead builds, but has no loss_cls when it predicts
        (
            {
                "type": "SSDHead",
                "in_channels": [32] * 5,
                "num_classes": 3,
                "anchor_generator": {
                    "type": "SSDAnchorGenerator",
                    "scale_major": False,
                    "min_sizes": [10, 20, 40, 60, 80],
                    "max_sizes": [20, 40, 60, 80, 96],
                    "strides": [8, 16, 32, 64, 128],
                    "ratios": [[2]] * 5,
                },
            },
            "does not predict at 96 x 96: AttributeError",
        ),
        (
            {"type": "FCOSHead", "in_channels": 7, "num_classes": 3},
            "does not predict at 96 x 96: RuntimeError",
        ),
    ],
)
def test_a_model_that_cannot_predict_is_no_bundle(small_detector, tmp_path, change, complaint):
    config = small_detector("fcos")
    config["type"] = "SingleStageDetector"
    config["bbox_head"] = change
    with pytest.raises(UserError, match=complaint):
        write_mmdet_bundle(tmp_path / "b", "x", config, untrained(config).state_dict(), VOCABULARY, SPEC)
    assert not (tmp_path / "b").exists()
