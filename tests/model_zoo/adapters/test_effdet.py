"""EfficientDet: the figures of effdet's own bench, on random weights."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch

from composition import detections
from composition.errors import UserError
from model_zoo import importing_torch
from model_zoo.adapters import effdet
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.importing import import_teacher
from tests.model_zoo.adapters.test_torchvision import photographs

NAMES = ("ant", "bee", "cow")
SIZE = (256, 256)


def random_network(name, classes, size=SIZE):
    """Random weights whose scores are spread over 0..1 instead of being all alike."""
    torch.manual_seed(5)
    model = effdet.build(name, classes, size)
    with torch.no_grad():
        for parameter in model.class_net.predict.parameters():
            parameter.normal_(0, 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def network():
    return random_network("tf_efficientdet_d0", 3)


@pytest.fixture(scope="module")
def added(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("effdet")
    # as effdet's training script leaves it: averaged weights beside the last ones, under a bench
    wrapped = {f"module.model.{key}": value for key, value in network.state_dict().items()}
    last = {key: torch.zeros_like(value) for key, value in wrapped.items()}
    document = {"epoch": 1, "arch": "tf_efficientdet_d0", "state_dict": last, "state_dict_ema": wrapped}
    torch.save(document, folder / "checkpoint.pth.tar")
    import_teacher(
        folder / "checkpoint.pth.tar", classes=NAMES, name="net", destination=folder / "bundle", size=SIZE
    )
    return folder / "bundle"


def test_results_are_those_of_effdets_bench(network, added):
    from effdet import DetBenchPredict
    from effdet.data import transforms

    detector = open_detector(added, InferenceSettings(score_floor=0.2))
    bench = DetBenchPredict(network).eval()
    transform = transforms.transforms_coco_eval(SIZE, use_prefetcher=True)
    mean, std = (
        255 * torch.tensor(one)[:, None, None]
        for one in (transforms.IMAGENET_DEFAULT_MEAN, transforms.IMAGENET_DEFAULT_STD)
    )
    # the last one is larger than the network's input, by a factor that leaves no whole pixels
    for image in photographs([(256, 256), (200, 130), (90, 256), (451, 619)]):
        pixels, notes = transform(PIL.Image.fromarray(image), {})
        info = {
            "img_scale": torch.tensor([notes["img_scale"]]),
            "img_size": torch.tensor([[image.shape[1], image.shape[0]]], dtype=torch.float32),
        }
        pixels = (torch.from_numpy(pixels).float() - mean) / std
        with torch.inference_mode():
            (rows,) = bench(pixels[None], info).numpy()
        area = (rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])
        rows = rows[(rows[:, 4] >= 0.2) & area]
        found = detector.predict([image])
        assert len(found) == len(rows) > 20
        expected = detections.sort(
            detections.make(np.zeros(len(rows)), rows[:, :4], rows[:, 4], rows[:, 5] - 1)
        )
        np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_array_equal(found.class_id, expected.class_id)


def test_padding_is_the_mean_colour(added):
    detector = open_detector(added)
    pixels, (place,) = detector.prepare([np.full((100, 50, 3), 200, np.uint8)])
    assert (place.left, place.top) == (0, 0)
    # in whole grey values, as effdet pads
    assert (np.abs(pixels[0, :, :, 128:]) < 0.01).all()
    assert (np.abs(pixels[0, :, :, :128]) > 0.5).all()


def test_a_batch_of_mixed_and_extreme_sizes_equals_one_by_one(added):
    # on one thread: in the picture of one row many boxes have one score, and with several threads the last
    # bit decides which of them suppress each other
    detector = open_detector(added, InferenceSettings(threads=1))
    images = photographs()
    found = detector.predict(images)
    alone = [detector.predict([image]) for image in images]
    assert found.image_id.tolist() == np.repeat(range(len(images)), [len(part) for part in alone]).tolist()
    np.testing.assert_allclose(found.score, detections.concatenate(alone).score, atol=1e-5)
    detections.validate(found, {n: image.shape[1::-1] for n, image in enumerate(images)}, 3, "test")
    assert len(detector.predict([])) == 0


def test_what_the_weights_do_not_tell_is_asked_for(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(UserError, match=r"with --architecture: .*tf_efficientdet_d0, tf_efficientdet_d0_ap"):
        importing_torch.read_teacher(str(tmp_path / "bare.pth"), NAMES)
    # as model hubs write it
    found = importing_torch.read_teacher(
        str(tmp_path / "bare.pth"), NAMES, architecture="timm/tf_efficientdet_d0.in1k"
    )
    assert json.loads(found.files["network.json"])["architecture"] == "tf_efficientdet_d0"
    assert (found.input.height, found.input.width, found.input.mean[0]) == (512, 512, 123.675)
    with pytest.raises(UserError, match="multiples of 64"):
        importing_torch.read_teacher(
            str(tmp_path / "bare.pth"), NAMES, architecture="tf_efficientdet_d0", size=(500, 500)
        )
    with pytest.raises(UserError, match="has 2 names, the network 3 classes"):
        importing_torch.read_teacher(str(tmp_path / "bare.pth"), NAMES[:2], architecture="tf_efficientdet_d0")
    with pytest.raises(UserError, match="effdet has no architecture 'yolo'"):
        importing_torch.read_teacher(str(tmp_path / "bare.pth"), NAMES, architecture="yolo")


def test_a_training_without_redundant_biases(tmp_path):
    # a switch of effdet's trainer, which its checkpoints note nowhere but in the weights
    model = effdet.build("tf_efficientdet_lite0", 3, SIZE, biases=False)
    assert len(model.state_dict()) < len(effdet.build("tf_efficientdet_lite0", 3, SIZE).state_dict())
    file = tmp_path / "last.pth.tar"
    torch.save({"arch": "tf_efficientdet_lite0", "state_dict": model.state_dict()}, file)
    import_teacher(file, classes=NAMES, name="net", destination=tmp_path / "b", size=SIZE)
    detector = open_detector(tmp_path / "b", InferenceSettings(score_floor=0))
    assert len(detector.predict(photographs([(64, 64)]))) > 0


def test_the_papers_networks_have_their_sizes_and_gaps():
    for name, side in (("efficientdet_d0", 512), ("efficientdet_d1", 640)):
        spec, mean = effdet.input_spec(name)
        assert (spec.height, spec.width, spec.resize, mean) == (side, side, "letterbox", True)
    spec, mean = effdet.input_spec("tf_efficientdet_d0_ap")
    assert (spec.pad_value, spec.mean[0], mean) == (0, 127.5, False)
