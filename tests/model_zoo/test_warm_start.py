from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo import warm_start
from model_zoo.adapters.mmdet import write_mmdet_bundle
from model_zoo.efficientnet_lite import classifier_state, packaged_weights
from model_zoo.images import read_rgb
from model_zoo.importing import import_teacher
from model_zoo.mmdet_runtime import build_model
from model_zoo.student_configs import input_spec, load_student, model_config

VOC_SPELLING = ("cat", "aeroplane", "tvmonitor")
COCO_SPELLING = ("tv", "spaceship", "airplane", "cat")


def fresh(name: str, classes: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build_model(model_config(load_student(name), classes))
    model.init_weights()
    return model


def scores(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Class logits, one (B, places x anchors, classes) tensor a level."""
    classes = model.bbox_head.num_classes
    with torch.no_grad():
        levels = model.eval()(images, mode="tensor")[0]
    return [level.permute(0, 2, 3, 1).reshape(len(images), -1, classes) for level in levels]


def test_packaged_imagenet_weights_recognise_a_cat() -> None:
    import timm
    from skimage.data import chelsea

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(classifier_state(packaged_weights()))
    photo = cv2.resize(chelsea(), (224, 224), interpolation=cv2.INTER_AREA)
    spec = load_student("retinanet_effnet_lite0").input
    pixels = (photo.astype(np.float32) - spec.mean) / spec.std
    with torch.no_grad():
        guess = model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float()).softmax(1)[0]
    assert int(guess.argmax()) in range(281, 286)  # ImageNet's five house cats
    assert float(guess[281:286].sum()) > 0.5


def test_imagenet_fills_the_whole_backbone_and_nothing_else() -> None:
    student = load_student("retinanet_effnet_lite0")
    model, untouched = fresh(student.name, 3), fresh(student.name, 3)
    report = warm_start.from_imagenet(model, student)
    packaged = classifier_state(packaged_weights())
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, packaged[name.removeprefix("backbone.net.")])
        else:
            assert torch.equal(value, untouched.state_dict()[name])
    assert report.copied == len(model.backbone.state_dict())


def test_torchvision_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    cache.parent.mkdir(parents=True)
    source = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(source, cache)
    student = load_student("retinanet_r50")
    model = fresh(student.name, 3)
    warm_start.from_imagenet(model, student)
    assert torch.equal(model.backbone.layer4[2].conv3.weight, source["layer4.2.conv3.weight"])


def test_torchvision_weights_offline_name_the_file_to_provide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    # urllib keeps the proxies of its first request for good: later tests would ask theirs there, too
    monkeypatch.setattr(urllib.request, "_opener", None)
    student = load_student("retinanet_r50")
    with pytest.raises(UserError) as error:
        warm_start.from_imagenet(fresh(student.name, 3), student)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth") in error.value.way_out


@pytest.mark.parametrize("name", ["yolox_pico", "rtmdet_pico", "retinanet_effnet_lite0"])
def test_classes_are_taken_over_by_name_whatever_their_order(name: str, tmp_path: Path) -> None:
    student = load_student(name)
    teacher = fresh(name, len(VOC_SPELLING), seed=1)
    with torch.no_grad():  # class branches start nearly alike: tell them apart
        for weight in teacher.parameters():
            weight += 0.05 * torch.randn_like(weight)
    write_mmdet_bundle(
        tmp_path / "teacher",
        name="teacher",
        model_config=model_config(student, len(VOC_SPELLING)),
        state_dict=teacher.state_dict(),
        vocabulary=VOC_SPELLING,
        input=input_spec(student, 64),
    )
    model = fresh(name, len(COCO_SPELLING), seed=2)
    report = warm_start.from_bundle(model, student, COCO_SPELLING, tmp_path / "teacher")
    assert report.classes == {"tv": "tvmonitor", "airplane": "aeroplane", "cat": "cat"}
    assert not report.folded
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    for ours, theirs in zip(scores(model, images), scores(teacher, images), strict=True):
        torch.testing.assert_close(ours[..., [3, 2, 0]], theirs, rtol=1e-4, atol=1e-4)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    student = load_student("yolox_pico")
    write_mmdet_bundle(
        tmp_path / "teacher",
        name="teacher",
        model_config=model_config(student, 2),
        state_dict=fresh(student.name, 2).state_dict(),
        vocabulary=("a", "b"),
        input=input_spec(student, 64),
    )
    other = load_student("rtmdet_pico")
    with pytest.raises(UserError, match="'teacher' is not a rtmdet_pico"):
        warm_start.from_bundle(fresh(other.name, 2), other, ("a", "b"), tmp_path / "teacher")


def test_fitting_tensors_with_another_meaning_are_refused(tmp_path: Path) -> None:
    student = load_student("rtmdet_pico")
    config = model_config(student, 2)
    config["bbox_head"]["exp_on_reg"] = False  # as in mmdet's own rtmdet_tiny: the same shapes, other boxes
    write_mmdet_bundle(
        tmp_path / "teacher",
        name="teacher",
        model_config=config,
        state_dict=fresh(student.name, 2).state_dict(),
        vocabulary=("a", "b"),
        input=input_spec(student, 64),
    )
    with pytest.raises(UserError, match=r"bbox_head\.exp_on_reg is False, not True"):
        warm_start.from_bundle(fresh(student.name, 2), student, ("a", "b"), tmp_path / "teacher")


# ---- the real YOLOX-nano ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def yolox_nano(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "yolox-nano"
    teachers = data_dir / "teachers"
    source = next((teachers / "yolox_nano_coco").glob("*.onnx"))
    import_teacher(
        source, classes=teachers / "coco.names", name="yolox-nano", destination=folder, decoder="yolox"
    )
    return folder


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> NDArray[np.float32]:
    """(4, 3, 416, 416) BGR 0..255, letterboxed at the top left with 114."""
    names = [
        image["file_name"] for image in json.loads((data_dir / "coco" / "val.json").read_text())["images"]
    ]
    result = np.full((4, 416, 416, 3), 114, np.float32)
    for canvas, name in zip(result, names[:4], strict=True):
        image = read_rgb(data_dir / "coco" / "images" / name)
        scale = 416 / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale)[:416, :416]
        canvas[: image.shape[0], : image.shape[1]] = image[:, :, ::-1]
    return np.ascontiguousarray(result.transpose(0, 3, 1, 2))


def raw_outputs(model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, 3549, 85): box, objectness and class probabilities, as the ONNX export lays them out."""
    with torch.no_grad():
        classes, boxes, objectness = model(torch.from_numpy(images), mode="tensor")

    def flat(levels: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)

    parts = [flat(boxes), flat(objectness).sigmoid(), flat(classes).sigmoid()]
    return torch.cat(parts, dim=2).numpy()


def test_yolox_onnx_weights_give_the_same_outputs_in_mmdet(
    yolox_nano: Path, photos: NDArray[np.float32], data_dir: Path
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(next(yolox_nano.glob("*.onnx"))))
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: photo[None]})[0] for photo in photos])
    vocabulary = tuple((data_dir / "teachers" / "coco.names").read_text().split("\n")[:80])
    student = load_student("yolox_nano")
    model = fresh(student.name, 80)
    report = warm_start.from_bundle(model, student, vocabulary, yolox_nano)
    assert report.folded
    assert len(report.classes) == 80
    np.testing.assert_allclose(raw_outputs(model.eval(), photos), expected, atol=1e-3)

    batch = {"inputs": list(torch.from_numpy(photos)), "data_samples": None}
    warm_start.unfold_batch_norm(model, [batch])
    np.testing.assert_allclose(raw_outputs(model.eval(), photos), expected, atol=1e-3)
    # batch statistics are the running ones now: a training step sees what evaluation sees
    np.testing.assert_allclose(raw_outputs(model.train(), photos)[..., 4:], expected[..., 4:], atol=0.02)


def test_folded_batch_norm_would_be_wrecked_by_training(
    yolox_nano: Path, photos: NDArray[np.float32]
) -> None:
    """Why `unfold_batch_norm` exists."""
    student = load_student("yolox_nano")
    model = fresh(student.name, 1)
    warm_start.from_bundle(model, student, ("person",), yolox_nano)
    before = raw_outputs(model.eval(), photos)[..., 4]
    after = raw_outputs(model.train(), photos)[..., 4]
    assert np.abs(before - after).max() > 0.3


def test_yolox_onnx_classes_by_name(yolox_nano: Path, photos: NDArray[np.float32], data_dir: Path) -> None:
    names = (data_dir / "teachers" / "coco.names").read_text().split("\n")[:80]
    student = load_student("yolox_nano")
    whole, part = fresh(student.name, 80), fresh(student.name, 3)
    warm_start.from_bundle(whole, student, tuple(names), yolox_nano)
    report = warm_start.from_bundle(part, student, ("digit 7", "airplane", "person"), yolox_nano)
    assert sorted(report.classes) == ["airplane", "person"]
    all_classes, three = raw_outputs(whole.eval(), photos), raw_outputs(part.eval(), photos)
    chosen = [names.index(report.classes[name]) for name in ("airplane", "person")]
    np.testing.assert_allclose(three[..., 6:], all_classes[..., [5 + index for index in chosen]], atol=1e-5)
    np.testing.assert_allclose(three[..., :5], all_classes[..., :5], atol=1e-4)


@pytest.mark.parametrize("name", ["rtmdet_pico", "yolox_pico"])
def test_yolox_onnx_does_not_fit_other_students(yolox_nano: Path, name: str) -> None:
    student = load_student(name)
    with pytest.raises(UserError, match="'yolox-nano'"):
        warm_start.from_bundle(fresh(name, 1), student, ("person",), yolox_nano)
