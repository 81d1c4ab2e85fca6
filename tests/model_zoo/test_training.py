from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from composition.errors import UserError
from model_zoo import training_runner
from model_zoo.adapters.registry import open_detector
from model_zoo.images import read_rgb
from model_zoo.student_settings import StudentSettings
from model_zoo.training import TrainingProgress, train
from model_zoo.training_data import PAD, EpochSampler, TrainingSet, fit
from model_zoo.training_records import read_records
from tests.model_zoo.squares import CLASSES, category_id, dump, write_squares

QUICK = StudentSettings(
    architecture="yolox_pico", image_size=64, epochs=2, batch_size=4, augmentation="light", flip=False
)


def run(folder: Path, annotations: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "settings": QUICK,
        "vocabulary": CLASSES,
        "annotations": annotations,
        "image_root": annotations.parent,
        "work_dir": folder / "work",
        "output": folder / "bundle",
        "name": "squares",
        "seed": 0,
        "threads": 1,
    }
    return train(**{**arguments, **changes})


def test_training_reports_every_step_and_writes_a_bundle_that_predicts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    annotations = write_squares(tmp_path / "data", count=10)
    reports: list[TrainingProgress] = []
    manifest = run(tmp_path, annotations, on_progress=reports.append, provenance={"recipe": "squares"})

    assert [(report.epoch, report.step) for report in reports] == [
        (epoch, step) for epoch in (1, 2) for step in (1, 2, 3)
    ]
    assert {(report.epochs, report.steps) for report in reports} == {(2, 3)}
    assert all(report.loss == pytest.approx(sum(report.losses.values()), rel=1e-4) for report in reports)
    assert reports[-1].learning_rate < reports[1].learning_rate
    assert reports[-1].seconds_left == 0
    assert manifest.vocabulary == CLASSES
    assert manifest.provenance["recipe"] == "squares"
    assert manifest.provenance["training"]["settings"]["epochs"] == 2
    image = read_rgb(tmp_path / "data" / "001.png")
    assert open_detector(tmp_path / "bundle").vocabulary == CLASSES
    open_detector(tmp_path / "bundle").predict([image])

    assert capfd.readouterr().out == ""
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"data", "elsewhere", "work", "bundle"}
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        "checkpoint.safetensors",
        "training.json",
        "training.log",
    }


# RTMDet finds the squares soon, but tells their colours apart late: fewer epochs, or augmentation, and
# it depends on seed and machine
@pytest.mark.parametrize(
    ("architecture", "epochs", "augmentation"), [("yolox_pico", 16, "standard"), ("rtmdet_pico", 48, "none")]
)
def test_a_student_learns_squares_and_their_colours(
    architecture: str, epochs: int, augmentation: str, tmp_path: Path
) -> None:
    annotations = write_squares(tmp_path / "data", count=48)
    settings = QUICK.model_copy(
        update={
            "architecture": architecture,
            "epochs": epochs,
            "batch_size": 8,
            "augmentation": augmentation,
        }
    )
    run(tmp_path, annotations, settings=settings)

    write_squares(tmp_path / "unseen", count=30, seed=1)
    document = json.loads((tmp_path / "unseen" / "train.json").read_text())
    detector = open_detector(tmp_path / "bundle")
    hits = 0
    for annotation in document["annotations"]:
        image = read_rgb(tmp_path / "unseen" / f"{annotation['image_id']:03}.png")
        best = detector.predict([image])[:1]
        hits += bool(len(best)) and category_id(CLASSES[int(best.class_id[0])]) == annotation["category_id"]
    assert hits >= 0.8 * len(document["annotations"])


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=6)
    settings = QUICK.model_copy(update={"epochs": 1, "augmentation": "standard", "close_mosaic_epochs": 0})
    digests = [
        run(tmp_path / str(number), annotations, settings=settings, seed=seed).digest
        for number, seed in enumerate((3, 3, 4))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_loading_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = write_squares(tmp_path / "data", count=8)
    alone = run(tmp_path / "alone", annotations)
    assert training_runner.loading_processes("cpu") == 0
    assert training_runner.loading_processes("cuda:0") >= 1
    monkeypatch.setattr(training_runner, "loading_processes", lambda device: 2)
    assert run(tmp_path / "helped", annotations).digest == alone.digest


def test_a_work_folder_belongs_to_one_training(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=4)
    settings = QUICK.model_copy(update={"epochs": 1})
    first = run(tmp_path, annotations, settings=settings)
    assert run(tmp_path, annotations, settings=settings).digest == first.digest  # nothing left to train
    with pytest.raises(UserError, match="holds another training"):
        run(tmp_path, annotations, settings=QUICK)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=8)
    wild = QUICK.model_copy(update={"learning_rate": 10.0, "warmup_fraction": 0.0, "epochs": 30})
    with pytest.raises(UserError, match="training diverged"):
        run(tmp_path, annotations, settings=wild)


# ---- bad input: every mistake is told before anything is trained ------------------------------------

Document = dict[str, Any]


def _rename_category(document: Document) -> None:
    document["categories"][0]["name"] = "bleu"


def _drop_category(document: Document) -> None:
    del document["categories"][0]
    document["annotations"] = []


def _unknown_category(document: Document) -> None:
    document["annotations"][0]["category_id"] = 99


def _unknown_image(document: Document) -> None:
    document["annotations"][0]["image_id"] = 99


def _missing_file(document: Document) -> None:
    document["images"][2]["file_name"] = "gone.png"


def _broken_box(document: Document) -> None:
    document["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]


def _no_boxes(document: Document) -> None:
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1


def _no_images_key(document: Document) -> None:
    del document["images"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_rename_category, "category 'bleu' is not one of the student's classes\n.*candidates: blue"),
        (_drop_category, "class 'blue' stands 0 times in 'categories'"),
        (_unknown_category, "annotation 1 has category id 99, which is not in 'categories'"),
        (_unknown_image, "annotation 1 names image id 99"),
        (_missing_file, r"gone\.png does not exist"),
        (_broken_box, "annotation 1: 'bbox' is"),
        (_no_boxes, "none of its 4 images has a box of red, green, blue"),
        (_no_images_key, "the list 'images' is missing"),
    ],
)
def test_bad_annotations_are_told_before_anything_is_trained(
    damage: Callable[[Document], None], problem: str, tmp_path: Path
) -> None:
    annotations = write_squares(tmp_path / "data", count=4)
    document = json.loads(annotations.read_text())
    damage(document)
    dump(annotations, document)
    with pytest.raises(UserError, match=problem) as error:
        run(tmp_path, annotations)
    assert str(annotations) in error.value.problem
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"annotations": Path("/nowhere/train.json")}, r"/nowhere/train\.json cannot be read"),
        ({"vocabulary": ("red", "red")}, "class name 'red' appears twice"),
        ({"settings": QUICK.model_copy(update={"architecture": "yolo"})}, "no student architecture 'yolo'"),
        ({"settings": QUICK.model_copy(update={"warm_start": "imagenet"})}, "no ImageNet weights"),
        ({"settings": QUICK.model_copy(update={"warm_start": "bundle:x"})}, "bundle is missing"),
        ({"warm_start_bundle": Path("/nowhere")}, "bundle is given"),
        (
            {
                "settings": QUICK.model_copy(update={"warm_start": "bundle:x"}),
                "warm_start_bundle": Path("/x"),
            },
            "/x is not a bundle",
        ),
    ],
)
def test_bad_arguments_are_told(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=4)
    with pytest.raises(UserError, match=problem):
        run(tmp_path, **{"annotations": annotations, **changes})


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"not an image", "not a readable image"), (None, "is 32 x 64 pixels")],
)
def test_bad_images_name_their_file(content: bytes | None, problem: str, tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=4)
    path = tmp_path / "data" / "002.png"
    if content is None:
        Image.new("RGB", (32, 64)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        run(tmp_path, annotations)
    assert "002.png" in error.value.problem


# ---- samples ---------------------------------------------------------------------------------------


def test_records_follow_the_vocabulary_and_not_the_file(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=6)
    document = json.loads(annotations.read_text())
    document["annotations"][1]["bbox"] = [-5, 50, 30, 30]  # beyond two sides
    dump(annotations, document)
    records = read_records(annotations, tmp_path / "data", CLASSES)
    assert [record.labels.tolist() for record in records] == [[], [1], [2], [], [1], [2]]
    assert [record.ignore.tolist() for record in records] == [[], [True], [False], [], [False], [False]]
    assert records[2].boxes.tolist() == [[0, 50, 25, 64]]


def test_other_categories_are_background_on_request(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=6)
    with pytest.raises(UserError, match="category 'blue' is not one of the student's classes"):
        read_records(annotations, tmp_path / "data", ("red", "green"))
    records = read_records(annotations, tmp_path / "data", ("green", "red"), "background")
    assert [record.labels.tolist() for record in records] == [[], [0], [], [], [0], []]


@pytest.mark.parametrize(("size", "batch", "length"), [(10, 4, 12), (3, 8, 8), (8, 4, 8), (1, 2, 2)])
def test_sampler_shows_every_image_in_whole_batches(size: int, batch: int, length: int) -> None:
    sampler = EpochSampler(np.arange(size), batch, seed=5)
    first = list(sampler)
    sampler.start(1, 0)
    second = list(sampler)
    assert len(first) == len(second) == len(sampler) == length
    assert {index for _, _, index in first} == {index for _, _, index in second} == set(range(size))
    sampler.start(1, sampler.steps - 1)
    assert list(sampler) == second[-batch:]


@pytest.mark.parametrize("mixup", [0.0, 0.5])
@pytest.mark.parametrize("augmentation", ["none", "light", "standard"])
def test_a_sample_depends_on_its_place_alone(augmentation: str, mixup: float, tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=6)
    records = read_records(annotations, tmp_path / "data", CLASSES)
    settings = QUICK.model_copy(
        update={"augmentation": augmentation, "mixup": mixup, "close_mosaic_epochs": 1}
    )
    one, other = TrainingSet(records, settings, seed=1), TrainingSet(records, settings, seed=1)
    keys = [(0, 0, 2), (0, 1, 4), (1, 0, 5)]
    forwards = [one[key] for key in keys]
    backwards = [other[key] for key in reversed(keys)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert a["inputs"].equal(b["inputs"])
        boxes = [sample["data_samples"].gt_instances.bboxes.tensor for sample in (a, b)]
        assert boxes[0].equal(boxes[1])
        assert a["inputs"].shape == (3, 64, 64)
    assert one[0, 0, 2]["inputs"].equal(one[0, 9, 2]["inputs"]) == (augmentation == "none")


def test_mixup_lays_another_image_with_its_boxes_over_part_of_them(tmp_path: Path) -> None:
    """White squares on black: mixed ones come out at half their brightness, and each under its box."""
    boxes = ([4, 4, 24, 24], [36, 36, 24, 24])
    images, annotations = [], []
    for number, (x, y, width, height) in enumerate(boxes):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[y : y + height, x : x + width] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        annotations.append(
            {"id": number + 1, "image_id": number, "category_id": 1, "bbox": [x, y, width, height]}
        )
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    records = read_records(dump(tmp_path / "train.json", document), tmp_path, ("square",))
    mixed = {}
    for share in (0.0, 0.5, 1.0):
        samples = TrainingSet(records, QUICK.model_copy(update={"mixup": share, "epochs": 30}), 0)
        counts = []
        for place in range(40):
            sample = samples[0, place, 0]
            boxes_found = sample["data_samples"].gt_instances.bboxes.tensor
            counts.append(len(boxes_found))
            for box in boxes_found:
                x, y = ((box[:2] + box[2:]) / 2).long().tolist()
                # half of a square is above 100, half of the grey around images is 57
                assert sample["inputs"][:, y, x].max() > 100
        mixed[share] = sum(count > 1 for count in counts)
        assert len(samples[29, 0, 0]["data_samples"].gt_instances) == 1, "not in the last epochs"
    assert mixed[0.0] == 0
    assert mixed[0.0] < mixed[0.5] < mixed[1.0]


def test_frozen_norms_stay_bit_for_bit_while_the_rest_learns(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=8)
    run(tmp_path / "first", annotations, settings=QUICK.model_copy(update={"epochs": 1}))
    settings = QUICK.model_copy(update={"warm_start": "bundle:first", "norm": "frozen"})
    start = tmp_path / "first" / "bundle"
    run(tmp_path / "second", annotations, settings=settings, warm_start_bundle=start)
    before, after = (
        load_file(tmp_path / part / "bundle" / "model.safetensors") for part in ("first", "second")
    )
    norms = {name.removesuffix("running_mean") for name in before if name.endswith("running_mean")}
    assert len(norms) > 20
    frozen = {name for name in before if name.rpartition(".")[0] + "." in norms}
    changed = {name for name in before if not before[name].equal(after[name])}
    assert not frozen & changed
    # a level of the head that is given no square learns nothing
    assert len(changed) > 0.9 * len(before.keys() - frozen)


def test_ignore_regions_survive_augmentation_as_ignored(tmp_path: Path) -> None:
    annotations = write_squares(tmp_path / "data", count=2)  # an empty image and one ignore region
    document = json.loads(annotations.read_text())
    document["annotations"].append({**document["annotations"][0], "id": 2, "image_id": 0, "iscrowd": 0})
    dump(annotations, document)
    records = read_records(annotations, tmp_path / "data", CLASSES)
    samples = TrainingSet(records, QUICK.model_copy(update={"augmentation": "standard", "epochs": 8}), 0)
    counts = np.zeros(2, int)
    for place in range(20):
        sample = samples[0, place, 1]["data_samples"]
        counts += len(sample.gt_instances), len(sample.ignored_instances)
    assert counts.min() >= 5
    plain = samples[7, 0, 1]["data_samples"]
    assert (len(plain.gt_instances), len(plain.ignored_instances)) == (0, 1)


def test_images_reach_the_network_as_inference_sees_them(tmp_path: Path) -> None:
    """Top-left letterbox, BGR, the same grey around it."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0] = 200  # red
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 10], "iscrowd": 0}
    image = {"id": 1, "file_name": "wide.png", "width": 40, "height": 20}
    document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "red"}]}
    records = read_records(dump(tmp_path / "train.json", document), tmp_path, ("red",))
    settings = QUICK.model_copy(update={"augmentation": "none"})
    sample = TrainingSet(records, settings, 0)[0, 0, 0]
    inputs = sample["inputs"].numpy()
    assert inputs[:, :32].reshape(3, -1).T.tolist() == [[0, 0, 200]] * (32 * 64)
    assert (inputs[:, 32:] == PAD).all()
    np.testing.assert_allclose(sample["data_samples"].gt_instances.bboxes.tensor, [[16, 8, 48, 24]])
    assert fit(pixels, 64).shape == (32, 64, 3)
