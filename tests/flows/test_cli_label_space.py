"""``detcompose label-space`` on real teachers, and the guide's example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from composition.errors import UserError
from composition.label_space import Entry, parse_yaml
from flows.cli.label_space import LEGEND, app
from tasks import teachers
from tasks.home import Home
from tests.flows.conftest import TEACHERS

HIDDEN = [f"class_{number}" for number in range(20)]


@pytest.fixture
def two_teachers(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """YOLOX with the names of COCO, and a VOC detector whose names say nothing."""
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    folder = data_dir / "teachers"
    names = tmp_path / "hidden.names"
    names.write_text("\n".join(HIDDEN))
    home = Home.default()
    teachers.add(home, folder / "yolox_nano_coco" / "yolox_nano.onnx", "yolox", classes=folder / "coco.names")
    teachers.add(home, folder / "yolo_fastest_xl_voc" / "yolo-fastest-xl.cfg", "hidden", classes=names)
    return "yolox,hidden"


def _run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _vocabularies(data_dir: Path) -> dict[str, list[str]]:
    return {"yolox": (data_dir / "teachers" / "coco.names").read_text().splitlines(), "hidden": HIDDEN}


def test_propose_from_behaviour(two_teachers: str, data_dir: Path, tmp_path: Path) -> None:
    images = ["--images", data_dir / "coco" / "unlabeled.json", "--limit", "120"]
    out, sheets = tmp_path / "new" / "space.yaml", tmp_path / "sheets"
    text = _run("propose", "-t", two_teachers, *images, "--out", out, "--contact-sheet", sheets)
    assert text.startswith(f"{out}: 100 classes, ")
    # nothing is applied unasked
    space = parse_yaml(out.read_text(), str(out), _vocabularies(data_dir))
    assert space.teachers["hidden"][14] == Entry("class_14", "same", "class_14")
    assert "    # class_14: person    # proposed, confident:" in out.read_text()

    document = json.loads(_run("propose", "-t", two_teachers, *images, "--json"))
    person = next(p for p in document["proposals"] if p["class"] == "class_14")
    assert person["other_class"] == "person"
    assert (person["relation"], person["confident"], person["status"]) == ("same", True, "proposed")
    assert person["asked_of_teacher"]["agreed"] > 50
    assert document["images"] == 120
    files = sorted(sheets.iterdir())
    assert len(files) == len(document["proposals"])
    with Image.open(files[0]) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 1000

    # the same images and teachers, the same file
    assert _run("propose", "-t", two_teachers, *images) == out.read_text()
    accepted = _run("propose", "-t", two_teachers, *images, "--accept", "confident")
    space = parse_yaml(accepted, "accepted", _vocabularies(data_dir))
    assert space.teachers["hidden"][14] == Entry("class_14", "same", "person")
    assert "class_14" not in space.classes
    assert len(space.classes) == 100 - sum(p["confident"] for p in document["proposals"])


def test_evidence_needs_images_and_two_teachers(two_teachers: str, data_dir: Path) -> None:
    runner = CliRunner()
    for option in (["--accept", "all"], ["--contact-sheet", "x"], ["--limit", "3"]):
        result = runner.invoke(app, ["propose", "-t", two_teachers, *option])
        assert isinstance(result.exception, UserError)
        assert "--images" in str(result.exception)
    images = str(data_dir / "coco" / "unlabeled.json")
    result = runner.invoke(app, ["propose", "-t", "yolox", "--images", images, "--limit", "1"])
    assert isinstance(result.exception, UserError)
    assert "two teachers" in str(result.exception)


def test_a_teacher_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path))
    twice = f"{TEACHERS / 'digits-low'},{TEACHERS / 'digits-low'}"
    with pytest.raises(UserError, match="two of them are called 'digits-low'"):
        CliRunner().invoke(app, ["propose", "--teachers", twice], catch_exceptions=False)


def test_check_shows_who_sees_what(two_teachers: str, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    vocabularies = _vocabularies(data_dir)
    file.write_text(
        yaml.safe_dump(
            {
                "classes": ["vehicle", "car", "unicorn"],
                "parents": {"car": "vehicle"},
                "teachers": {
                    "yolox": {n: "drop" for n in vocabularies["yolox"]} | {"bus": {"narrower": "vehicle"}},
                    "hidden": {n: "drop" for n in HIDDEN} | {"class_6": "car", "class_5": {"broader": "car"}},
                },
            }
        )
    )
    text = _run("check", file, "-t", two_teachers)
    assert LEGEND in text
    assert "car (a kind of vehicle)" in text
    assert "yolox: 79 of 80 classes dropped: person, bicycle" in text
    document = json.loads(_run("check", file, "-t", two_teachers, "--json"))
    assert document["coverage"] == {
        "vehicle": {"yolox": "narrower", "hidden": "narrower"},
        "car": {"yolox": "broader", "hidden": "same"},
        "unicorn": {"yolox": "none", "hidden": "none"},
    }
    assert document["unseen"] == ["unicorn"]
    assert document["version"] == 2
