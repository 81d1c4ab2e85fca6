from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition import detections as table
from composition import diagnostics, statistics
from composition import label_space as spaces
from composition.calibration_error import reliability
from composition.confirmation import confirmations
from composition.diagnostics import Diagnosis, LabelQuality
from composition.domain_alarm import check_domain, profile
from composition.errors import UserError
from composition.filtering import Fixed
from composition.fusion.expert import Expert
from demo.scenes import make_scenes
from tasks import diagnostics_figures as figures
from tasks import report as page
from tasks.diagnose import diagnose_pool, write_diagnosis
from tasks.evaluate import index_dataset as index_of
from tasks.evaluate import load_dataset, run_on_dataset
from tasks.home import Home
from tasks.image_index import list_images
from tasks.infer import GenerateSettings
from tasks.report_data import ReportData
from tasks.score_profiles import load_profile, make_profile, save_profile
from tasks.teachers import Teacher, add, find

DEMO = Path(__file__).resolve().parents[2] / "demo" / "teachers"
HOSTILE = "<b>$x_1$ & {{ 7*7 }}</b>"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, images=24, seed=1, part="evaluation")
    return folder / "scenes.json"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def teachers(home: Home) -> list[Teacher]:
    return [add(home, DEMO / name, name) for name in ("digits-low", "digits-high")]


def test_a_pool_is_diagnosed_with_and_without_labels(home: Home, scenes: Path, tmp_path: Path) -> None:
    members = teachers(home)
    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in members})
    rule = Fixed(0.5, 0.25)
    shards = GenerateSettings(shard_size=9)
    blind = diagnose_pool(
        home.store, members, space, list_images(scenes), Expert(), rule, calibrated=False, generate=shards
    )
    assert blind.images == 24
    assert blind.quality is None
    whole = diagnose_pool(home.store, members, space, load_dataset(scenes), Expert(), rule, calibrated=False)
    assert whole.quality is not None
    assert whole.quality.precision is not None
    assert whole.quality.precision > 0.5
    assert whole.quality.ap is not None
    # where shards begin changes nothing
    assert replace_quality(whole).to_dict() == blind.to_dict()
    files = write_diagnosis(tmp_path / "out", whole)
    assert [file.name for file in files] == ["diagnosis.json", "classes.png", "agreement.png", "scores.png"]
    assert json.loads(files[0].read_text()) == whole.to_dict()
    again = write_diagnosis(tmp_path / "again", whole)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def replace_quality(diagnosis: Diagnosis) -> Diagnosis:
    classes = tuple(replace(one, quality=None) for one in diagnosis.classes)
    return replace(diagnosis, classes=classes, quality=None)


def test_a_profile_travels_with_the_bundle_and_leaves_its_digest(home: Home, scenes: Path) -> None:
    teacher = teachers(home)[0]
    assert load_profile(teacher) is None
    dataset = load_dataset(scenes)
    made = make_profile(home.store, teacher, dataset)
    assert made.images == 24
    save_profile(teacher, made, dataset)
    saved = find(home, teacher.name)
    assert saved.digest == teacher.digest
    loaded = load_profile(saved)
    assert loaded is not None
    assert loaded.to_dict() == made.to_dict()
    copied = add(home, saved.folder, "copy")
    assert load_profile(copied) is not None
    assert check_domain(loaded, made).verdict == "alike"


def test_a_broken_profile_names_the_bundle(home: Home, scenes: Path) -> None:
    teacher = teachers(home)[0]
    manifest = teacher.folder / "manifest.json"
    document = json.loads(manifest.read_text())
    document["provenance"]["score_profile"] = {"version": 1, "boxes": "many"}
    manifest.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"manifest\.json: provenance: score_profile: 'best_score'"):
        load_profile(find(home, teacher.name))


def synthetic(classes: int, count: int = 3) -> Diagnosis:
    """A diagnosis with everything in it, of any number of classes and teachers."""
    generator = np.random.default_rng(0)
    names = [HOSTILE, *(f"class {c}" for c in range(1, classes))]
    tables = []
    for _ in range(count):
        image, score = generator.integers(0, 50, 900), generator.beta(1, 2, 900)
        corner = generator.uniform(0, 90, (900, 2))
        rank = np.minimum(generator.zipf(1.5, 900) - 1, classes - 1)
        tables.append(table.make(image, np.concatenate([corner, corner + 9], axis=1), score, rank))
    coverage = np.ones((classes, count), np.bool_)
    fused = Expert().fuse(tables)
    sums = statistics.statistics_of(fused, tables, coverage, 50)
    teachers = [f"teacher_{t}_with_a_long_name" for t in range(count)]
    own = profile(table.make(range(50), [[0, 0, 9, 9]] * 50, [0.9] * 50, [0] * 50), 50)
    return diagnostics.diagnose(
        sums,
        confirmations(tables, coverage),
        names,
        teachers,
        coverage,
        Fixed(0.5, 0.25).thresholds(sums),
        calibrated=True,
        profiles={name: (own, profile(part, 50)) for name, part in zip(teachers, tables, strict=True)},
        quality={c: LabelQuality(9, 20, 5, 3.0) for c in range(classes)},
    )


@pytest.mark.parametrize(("classes", "count"), [(1, 1), (7, 2), (80, 6), (400, 9)])
def test_every_plot_can_be_drawn_for_any_size(classes: int, count: int) -> None:
    diagnosis = synthetic(classes, count)
    drawn = figures.pictures(diagnosis)
    assert set(drawn) == {"classes", "scores", "domain", *(("agreement",) if count > 1 else ())}
    for data in drawn.values():
        with Image.open(io.BytesIO(data)) as image:
            assert image.width >= 600
            assert max(image.size) < 4000


def test_an_empty_pool_has_no_plots() -> None:
    empty = [table.empty()]
    coverage = np.ones((2, 1), np.bool_)
    sums = statistics.statistics_of(Expert().fuse(empty), empty, coverage, 3)
    made = diagnostics.diagnose(
        sums, confirmations(empty, coverage), ("a", "b"), ("t",), coverage, Fixed().thresholds(sums),
        calibrated=True,
    )  # fmt: skip
    assert figures.pictures(made) == {}
    assert "no box is sure enough of a, b" in diagnostics.warnings(made)


def test_reliability_curves_are_drawn() -> None:
    score = np.random.default_rng(0).uniform(0, 1, 500)
    curve = reliability(score, score**2)
    data = figures.to_png(figures.reliability, {"a": {"before": curve, "after": curve}}, "precision")
    assert data is not None
    assert data.startswith(b"\x89PNG")
    assert figures.to_png(figures.reliability, {}, "precision") is None


def test_the_report_has_a_section_and_escapes_names() -> None:
    text = page.render(ReportData("x", diagnosis=synthetic(12)))
    assert 'section id="diagnosis"' in text
    assert text.count("<svg") == 4
    assert "Held against human labels" in text
    assert "<b>$x_1$" not in text
    assert "behaves on these images unlike" in text
    assert 'section id="diagnosis"' not in page.render(ReportData("x"))


@pytest.mark.parametrize("name", ["yolox_nano_coco", "yolo_fastest_xl_voc"])
def test_other_domains_alarm_and_the_own_one_does_not(data_dir: Path, home: Home, name: str) -> None:
    files = {
        "yolox_nano_coco": ("yolox_nano.onnx", "coco.names"),
        "yolo_fastest_xl_voc": ("yolo-fastest-xl.cfg", "voc.names"),
    }
    model, classes = files[name]
    folder = data_dir / "teachers"
    teacher = add(home, folder / name / model, name, classes=folder / classes)

    def seen(pool: str, limit: int | None = None) -> object:
        dataset = load_dataset(data_dir / pool, limit=limit)
        found = run_on_dataset(home.store, teacher, dataset, index_of(home.store, dataset))
        return profile(found, len(dataset.coco["images"]))

    own = seen("coco/val.json")
    verdicts = {
        pool: check_domain(own, seen(pool, 80)).verdict  # type: ignore[arg-type]
        for pool in ("coco/train.json", "cards/train.json", "bccd/train.json", "fruits/train.json")
    }
    assert verdicts.pop("coco/train.json") == "alike"
    assert set(verdicts.values()) == {"alarm"}
