"""Every builder of torchvision: the library's own results, told from the weights alone."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
import torchvision as library
from torchvision.models import detection

from composition import detections
from composition.errors import UserError
from model_zoo import importing_torch
from model_zoo.adapters import torchvision
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.network_labels import COCO_NUMBERS, number_classes
from model_zoo.adapters.registry import open_detector
from model_zoo.importing import import_teacher

SIZES = [(48, 64), (64, 48), (1, 1), (3, 900), (700, 2), (48, 64), (1, 1600)]
SMALL = ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]


def photographs(sizes=SIZES, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


@pytest.fixture(scope="module", params=SMALL)
def weights(request, tmp_path_factory):
    """A builder, a random network of it, and the file of its weights."""
    torch.manual_seed(3)
    model = torchvision.build(request.param, 4).eval()
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    return request.param, model, path


@pytest.fixture(scope="module")
def added(weights, tmp_path_factory):
    name, _, path = weights
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    import_teacher(path, classes=("ant", "bee", "cow"), name="net", destination=folder, architecture=name)
    return folder


def test_results_are_those_of_the_library(weights, added):
    _, model, _ = weights
    detector = open_detector(added, InferenceSettings(score_floor=0.05, max_detections=300))
    head = getattr(model, "roi_heads", model)
    head.score_thresh, head.detections_per_img = 0.05, 300
    for image in photographs([(48, 64), (120, 90)]):
        with torch.inference_mode():
            (expected,) = model([torch.from_numpy(image).permute(2, 0, 1) / 255])
        found = detector.predict([image])
        assert len(found) == len(expected["scores"]) > 5
        np.testing.assert_allclose(np.sort(found.score), np.sort(expected["scores"]), atol=1e-5)
        # scores of random weights lie too close together for a common order
        own = np.column_stack([found.boxes, 1000 * found.class_id])
        theirs = np.column_stack([expected["boxes"], 1000 * (expected["labels"] - 1)])
        distance = np.abs(own[:, None] - theirs[None]).max(axis=2)
        assert distance.min(axis=0).max() < 0.01
        assert distance.min(axis=1).max() < 0.01


def test_a_batch_of_mixed_and_extreme_sizes_equals_one_by_one(added):
    detector = open_detector(added)
    images = photographs()
    found = detector.predict(images)
    alone = detections.concatenate(detector.predict([image]) for image in images)
    np.testing.assert_allclose(found.score, alone.score, atol=1e-4)
    np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.1)
    sizes = {number: image.shape[1::-1] for number, image in enumerate(images)}
    detections.validate(found, sizes, 3, "test")
    assert set(found.image_id.tolist()) >= {0, 1, 5}


@pytest.mark.parametrize("name", [*SMALL, "fcos_resnet50_fpn"])
def test_architecture_and_classes_are_told_by_the_weights(name, tmp_path):
    with torch.device("meta"):
        state = torchvision.build(name, 3).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}
    torch.save(state, tmp_path / "weights.pth")
    if name.startswith("fasterrcnn_mobilenet"):  # two builders that differ in the input size alone
        with pytest.raises(UserError, match=r"fit 2 architectures alike\nSay which .*_320_fpn"):
            importing_torch.read_teacher(str(tmp_path / "weights.pth"), ["ant", "bee"])
        return
    with pytest.raises(UserError, match=r"needs its class names \(3 classes in the network\)"):
        importing_torch.read_teacher(str(tmp_path / "weights.pth"), None)
    found = importing_torch.read_teacher(str(tmp_path / "weights.pth"), ["ant", "bee"])
    network = json.loads(found.files["network.json"])
    assert (network["architecture"], network["numbers"]) == (name, [1, 2])
    with pytest.raises(UserError, match="the class list has 5 names, the network"):
        importing_torch.read_teacher(str(tmp_path / "weights.pth"), list("abcde"))


def test_ssdlite_trained_from_an_imagenet_backbone(tmp_path, monkeypatch):
    # what the builder would download: with such weights it makes the backbone's last stage twice as wide
    torch.manual_seed(4)
    imagenet = library.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1
    state = library.models.mobilenet_v3_large(weights=None).state_dict()
    monkeypatch.setattr(type(imagenet), "get_state_dict", lambda *_, **__: state)
    network = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=imagenet, num_classes=3
    ).eval()
    torch.save(network.state_dict(), tmp_path / "wide.pth")
    import_teacher(
        tmp_path / "wide.pth", classes=("ant", "bee"), name="wide", destination=tmp_path / "bundle"
    )
    detector = open_detector(tmp_path / "bundle", InferenceSettings(score_floor=0.01))
    (image,) = photographs([(60, 80)])
    found = detector.predict([image])
    with torch.inference_mode():
        (expected,) = network([torch.from_numpy(image).permute(2, 0, 1) / 255])
    scores = expected["scores"].numpy()
    assert len(found) > 20
    np.testing.assert_allclose(found.score, scores[scores >= 0.01][: len(found)], atol=1e-6)


def test_every_builder_of_the_release_can_be_built_without_a_download():
    assert len(torchvision.architectures()) >= 12
    for name in torchvision.architectures():
        with torch.device("meta"):
            model = torchvision.build(name, 3)
        assert torchvision.input_spec(model).height >= 300
        assert 0.4 < torchvision.suppression(model) < 0.7
    with pytest.raises(UserError, match="has no detector 'yolov5'\nIt has: fasterrcnn_mobilenet"):
        torchvision.build("yolov5", 2)


def test_where_torchvision_sets_the_epsilon_to_zero():
    """Our list against the source of the installed release."""
    own = {
        name
        for name in torchvision.architectures()
        if "overwrite_eps" in inspect.getsource(inspect.unwrap(getattr(detection, name)))
    }
    assert own == set(importing_torch.ZERO_EPS)


def test_published_weights_come_from_the_cache_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=r"is not on this machine.*\nFetch it: `curl .*fcos_resnet50_fpn_coco"
    ):
        importing_torch.find_weights("torchvision:FCOS_ResNet50_FPN_Weights.COCO_V1")
    with pytest.raises(UserError, match=r"no detection weights 'FCOS'\nIt has: "):
        importing_torch.find_weights("torchvision:FCOS")
    known = {one.name: one for one in importing_torch.official_weights()}
    one = known["FCOS_ResNet50_FPN_Weights.COCO_V1"]
    file = tmp_path / "hub" / "checkpoints" / one.file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    for reference in (one.name, "fcos_resnet50_fpn"):
        assert importing_torch.find_weights(f"torchvision:{reference}") == (file, one)
    vocabulary, numbers = number_classes(one.categories, 91, None, "published")
    assert numbers == COCO_NUMBERS
    assert (len(vocabulary), vocabulary[0], vocabulary[-1]) == (80, "person", "toothbrush")


@pytest.mark.parametrize(
    ("names", "network", "background", "numbers"),
    [
        (["a", "b"], 3, True, (1, 2)),
        (["__background__", "a", "b"], 3, True, (1, 2)),
        (["__background__", "a", "N/A", "b"], 4, True, (1, 3)),
        (["a", "b"], 2, None, (0, 1)),
        (["a", "b"], 3, None, (1, 2)),
        (["a", "b"], 2, False, (0, 1)),
        (["background", "a", "b"], 2, False, (0, 1)),
        ([f"c{i}" for i in range(80)], 91, True, COCO_NUMBERS),
        ([f"c{i}" for i in range(80)], 90, False, tuple(number - 1 for number in COCO_NUMBERS)),
    ],
)
def test_class_numbers(names, network, background, numbers):
    vocabulary, found = number_classes(names, network, background, "x")
    assert found == numbers
    assert len(vocabulary) == len(numbers)


@pytest.mark.parametrize(("network", "background"), [(2, True), (4, True), (4, None), (3, False), (90, True)])
def test_class_lists_of_another_length(network, background):
    with pytest.raises(UserError, match=f"has 2 names, the network {network - bool(background)} classes"):
        number_classes(["a", "b"], network, background, "x")


def test_a_checkpoint_of_another_network(weights, tmp_path):
    _, model, _ = weights
    state = model.state_dict()
    first = next(key for key in state if key.endswith("weight"))
    torch.save({**state, first: torch.zeros(7)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="fit no architecture of the installed release"):
        importing_torch.read_teacher(str(tmp_path / "other.pth"), list("abc"))
    with pytest.raises(UserError, match="size mismatch"):
        importing_torch.read_teacher(str(tmp_path / "other.pth"), list("abc"), architecture=weights[0])
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "classifier.pth")
    with pytest.raises(
        UserError, match=r"belong to no detector that is known here; the first is 'layer\.weight'"
    ):
        importing_torch.read_teacher(str(tmp_path / "classifier.pth"), list("abc"))
    assert library.__version__
