from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from composition.errors import UserError
from model_zoo.mmdet_runtime import build_model
from model_zoo.student_configs import input_spec, learning_rate, load_student, model_config
from model_zoo.student_settings import StudentSettings, available_students

PARAMETERS = {  # with 10 classes; the files' comments say so in millions
    "atss_effnet_lite0": 3_256_658,
    "atss_pico": 984_034,
    "retinanet_effnet_lite0": 3_860_798,
    "retinanet_r50": 36_516_542,
    "rtmdet_pico": 856_902,
    "rtmdet_tiny": 4_875_798,
    "yolox_nano": 898_509,
    "yolox_pico": 1_014_927,
}


def test_the_table_covers_every_student() -> None:
    assert set(PARAMETERS) == set(available_students())


@pytest.mark.parametrize("name", available_students())
def test_student_builds_with_the_size_and_the_strides_that_its_file_claims(name: str) -> None:
    student = load_student(name)
    model = build_model(model_config(student, 10))
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]
    with torch.no_grad():
        scores = model.eval()(torch.zeros(1, 3, 128, 128), mode="tensor")[0]
    strides = [128 // level.shape[-1] for level in scores]
    assert strides == ([8, 16, 32, 64, 128] if name.startswith("retinanet") else [8, 16, 32])
    assert all(level.shape[1] % 10 == 0 for level in scores)


@pytest.mark.parametrize("name", available_students())
def test_preprocessing_of_training_and_of_the_bundle_agree(name: str) -> None:
    student = load_student(name)
    spec = input_spec(student, 320)
    preprocessor = model_config(student, 3)["data_preprocessor"]
    assert (spec.height, spec.width, spec.resize, spec.pad_value) == (320, 320, "letterbox", 114)
    assert preprocessor["bgr_to_rgb"] == (spec.color == "rgb")
    assert (tuple(preprocessor["mean"]), tuple(preprocessor["std"])) == (spec.mean, spec.std)


def test_nothing_is_frozen_from_scratch() -> None:
    student = load_student("retinanet_r50")
    scratch = build_model(model_config(student, 3, from_scratch=True))
    started = build_model(model_config(student, 3))
    assert all(weight.requires_grad for weight in scratch.parameters())
    assert not any(weight.requires_grad for weight in started.backbone.conv1.parameters())
    assert scratch.train().backbone.bn1.training
    assert not started.train().backbone.bn1.training


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"batch_size": 8}, 0.004),
        ({"batch_size": 4}, 0.002),
        ({"batch_size": 16}, 0.008),
        ({"batch_size": 256}, 0.016),  # not 0.128
        ({"batch_size": 256, "learning_rate": 0.5}, 0.5),
        ({"batch_size": 8, "warm_start": "bundle:teacher"}, 0.001),
    ],
)
def test_learning_rate_follows_the_batch_size(settings: dict[str, Any], rate: float) -> None:
    assert learning_rate(load_student("yolox_nano"), StudentSettings(**settings)) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"architecture": "yolo"}, "no student architecture 'yolo'; choose one of .*yolox_nano"),
        ({"image_size": 300}, "multiple of 32"),
        ({"image_size": 32}, "greater than or equal to 64"),
        ({"warm_start": "coco"}, "'bundle:<teacher>'"),
        ({"warm_start": "bundle:"}, "'bundle:<teacher>'"),
        ({"augmentation": "heavy"}, "'none', 'light' or 'standard'"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"norm": "frozen"}, "without a warm start"),
        ({"mixup": 1.5}, "less than or equal to 1"),
        ({"epoch": 3}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings_name_the_field(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as error:
        StudentSettings(**settings)
    assert error.value.errors()[0]["loc"] == tuple(settings)


def test_settings_of_later_versions_leave_students_that_do_without_as_they_are() -> None:
    plain = StudentSettings(warm_start="imagenet")
    assert "norm" not in plain.decisive()
    assert plain.model_copy(update={"norm": "frozen"}).decisive()["norm"] == "frozen"
    assert set(plain.decisive()) < set(StudentSettings.model_fields)


def test_warm_start_names_its_teacher() -> None:
    assert StudentSettings(warm_start="bundle:a:b").warm_start_teacher == "a:b"
    assert StudentSettings(warm_start="imagenet").warm_start_teacher is None


def test_unknown_student_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="yolox_nano"):
        load_student("../yolox")


def test_settings_and_the_training_module_import_nothing_heavy() -> None:
    code = (
        "import sys, model_zoo.student_settings, model_zoo.student_configs, model_zoo.training\n"
        "print([name for name in ('torch', 'mmdet', 'mmengine', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_stages_of_imagenet_are_kept_and_random_ones_are_trained() -> None:
    student = load_student("atss_effnet_lite0")
    pretrained = build_model(model_config(student, 3)).train()
    kept = [name for name, value in pretrained.named_parameters() if not value.requires_grad]
    assert {name.split(".")[2] for name in kept} == {"conv_stem", "bn1", "blocks"}
    assert {name.split(".")[3] for name in kept if ".blocks." in name} == {"0", "1", "2"}
    norms = [module for module in pretrained.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    scratch = build_model(model_config(student, 3, from_scratch=True)).train()
    assert all(value.requires_grad for value in scratch.parameters())
    assert all(norm.training for norm in scratch.backbone.modules() if isinstance(norm, torch.nn.BatchNorm2d))
