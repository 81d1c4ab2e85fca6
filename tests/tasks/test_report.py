from __future__ import annotations

import base64
import io
import re
import time
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from composition.detections import Detections, empty, make
from tasks import report as page
from tasks.drawing import class_colors, draw_detections, draw_ignored
from tasks.report_data import (
    Cell,
    Picture,
    ReportData,
    ResultRow,
    ScoreHistogram,
    TeacherInfo,
    TrainingPoint,
)

HOSTILE = "<script>alert('$x_1$ & {{ 7*7 }}')</script>"
CLASSES = ("cat", 'dog & "wolf"', HOSTILE)


def picture(height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def seen() -> Detections:
    return make([0, 0, 0], [[2, 2, 30, 30], [40, 10, 80, 50], [0, 0, 89, 59]], [0.9, 0.5, 0.2], [0, 1, 2])


def full() -> ReportData:
    cells = (
        Cell("low", seen()),
        Cell(HOSTILE, empty()),
        Cell("Pseudo-labels", seen(), ignored=seen()[2:]),
    )
    return ReportData(
        title=f"Report of {HOSTILE}",
        created="today",
        summary=("Two became one.",),
        classes=CLASSES,
        teachers=(
            TeacherInfo("low", "onnx", CLASSES[:2], "ab" * 32),
            TeacherInfo("high", "mmdet", CLASSES[1:], "cd" * 32),
        ),
        student={"name": "pupil", "architecture": "tiny"},
        coverage={"cat": {"low": "tabby"}, CLASSES[1]: {"low": CLASSES[1], "high": CLASSES[1]}},
        results=(
            ResultRow("low", "teacher", "own", 61.26, 80.0, {"cat": 60.0, CLASSES[1]: 62.5}),
            ResultRow("low", "teacher", "all", 40.84, 53.3, {"cat": 60.0, CLASSES[1]: 62.5}),
            ResultRow("naive ensemble", "ensemble", "all", 50.0, 70.0, dict.fromkeys(CLASSES, 50.0)),
            ResultRow("pupil", "student", "all", 70.04, 90.0, dict.fromkeys(CLASSES, 70.04)),
            ResultRow("supervised", "baseline", "all", 75.0, 95.0, dict.fromkeys(CLASSES, 75.0)),
        ),
        results_note="On 12 images.",
        pseudo_labels={"cat": {"low": 12, "ignored": 3}, HOSTILE: {HOSTILE: 4, "low + high": 1234}},
        scores=(ScoreHistogram(HOSTILE, (0.0, 0.5, 1.0), (10, 3)),),
        training=(TrainingPoint(1, 3.0, 0.01), TrainingPoint(2, 2.0, 0.005)),
        pictures=(Picture(picture(), cells, "first.jpg"),),
        provenance={"seed": "7", "digest": HOSTILE},
        durations={"inference": 61.0, "training": 3725.0},
        command="detcompose compose 'recipe.yaml' && true",
    )


class Parsed(HTMLParser):
    """Text, tags and attributes of a page; checks that tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def sections(self) -> set[str]:
        return {attributes["id"] or "" for tag, attributes in self.tags if tag == "section"}


@pytest.fixture(scope="module")
def whole() -> str:
    return page.render(full())


def test_file_is_written_whole_and_alone(tmp_path: Path) -> None:
    path = page.write_report(tmp_path / "deep" / "folder", full())
    again = page.write_report(tmp_path / "deep" / "folder", full())
    assert path == again
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == page.render(full())


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = page.write_report(tmp_path, ReportData("old"))
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        page.write_report(tmp_path, ReportData("new"))
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert "old" in path.read_text(encoding="utf-8")


def test_page_holds_every_section_and_number(whole: str) -> None:
    parsed = Parsed(whole)
    assert parsed.sections() == {"results", "pictures", "plan", "pseudo-labels", "training", "provenance"}
    for expected in ("61.3", "40.8", "70.0", "1,238", "1 min 01 s", "1 h 02 min", "abababababab", "tabby"):
        assert expected in parsed.text
    assert "student +29.2" in parsed.text
    for name in ("low", "naive ensemble", "pupil", "supervised"):
        assert name in parsed.text


def test_names_are_escaped_and_shown_as_they_are(whole: str) -> None:
    parsed = Parsed(whole)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "<script" not in whole
    assert HOSTILE in parsed.text
    assert all(not name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_page_needs_nothing_from_elsewhere(whole: str) -> None:
    for tag, attributes in Parsed(whole).tags:
        assert tag not in {"link", "iframe", "object"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert "@import" not in whole
    assert not re.search(r"url\((?!#)", whole)


def test_pictures_decode(whole: str) -> None:
    uris = [attributes["src"] or "" for tag, attributes in Parsed(whole).tags if tag == "img"]
    assert len(uris) == 4
    for uri in uris:
        kind, data = uri.split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert image.size == (480, 320)


@pytest.mark.parametrize("name", [field.name for field in fields(ReportData) if field.name != "title"])
def test_every_field_may_be_missing(name: str) -> None:
    blank: Any = type(getattr(full(), name))()
    Parsed(page.render(replace(full(), **{"pictures": (), name: blank})))


def test_a_title_is_enough() -> None:
    parsed = Parsed(page.render(ReportData("Only a title")))
    assert parsed.sections() == set()
    assert "Only a title" in parsed.text


@pytest.mark.parametrize("count", [1, 12, 13, 24, 80])
def test_any_number_of_classes(count: int) -> None:
    names = tuple(f"class {i}" for i in range(count))
    teachers = (TeacherInfo("a", "onnx", names, "00"), TeacherInfo("b", "onnx", names[:1], "11"))
    coverage = {name: {"a": name} | ({"b": name} if name == "class 0" else {}) for name in names}
    rows = (ResultRow("a", "student", "all", 10.0, 20.0, {name: 33.3 for name in names}),)
    parsed = Parsed(
        page.render(ReportData("x", classes=names, teachers=teachers, coverage=coverage, results=rows))
    )
    assert parsed.text.count("33.3") == count
    assert ("ul" in {tag for tag, _ in parsed.tags}) == (count > 12)


def test_the_best_of_a_column_is_marked_and_baselines_do_not_compete() -> None:
    table = page.results_table(full())
    assert table["best"] == {"ap": 70.0, "ap50": 90.0}
    assert table["best_of_class"]["cat"] == 70.0
    assert [line["name"] for line in table["lines"]] == ["low", "naive ensemble", "pupil", "supervised"]


def test_headline_names_the_student_first_and_its_lead() -> None:
    tiles = page.headline(full().results)
    assert [(tile["role"], tile["row"].name) for tile in tiles] == [
        ("student", "pupil"),
        ("teacher", "low"),
        ("ensemble", "naive ensemble"),
    ]
    assert tiles[0]["lead"] is None
    assert tiles[2]["lead"] == pytest.approx(20.04)


def test_pictures_on_which_teachers_complement_each_other_come_first() -> None:
    box, other = [0, 0, 10, 10], [20, 20, 40, 40]
    low = make([1, 2, 2, 3, 4], [box, box, other, box, box], [0.9, 0.9, 0.9, 0.9, 0.9], [0, 0, 1, 0, 0])
    high = make(
        [1, 2, 2, 4, 4],
        [box, other, [50, 50, 60, 60], other, box],
        [0.9, 0.9, 0.8, 0.3, 0.9],
        [0, 1, 2, 2, 1],
    )
    # 4: both see much alone; 2: both see one alone, one shared; 1: all shared; 3, 5: a teacher is silent
    views = {"low": low, "high": high}
    assert page.choose_pictures(views, [5, 4, 3, 2, 1]) == [4, 2, 1, 3, 5]
    assert page.choose_pictures(views, [1, 2, 3, 4, 5], count=1) == [4]
    assert page.choose_pictures({}, [3, 1]) == [1, 3]


def test_pictures_of_many_images_are_chosen_in_one_go() -> None:
    """Each teacher's boxes are not searched for every single image."""
    images = np.arange(50_000)
    corners = np.random.default_rng(0).uniform(0, 200, (len(images), 2))
    boxes = np.concatenate([corners, corners + 50], axis=1)
    low = make(images, boxes, np.full(len(images), 0.9), np.zeros(len(images), int))
    high = make(images, boxes + 20 * (images % 2)[:, None], low.score, low.class_id)
    began = time.process_time()
    assert page.choose_pictures({"low": low, "high": high}, images.tolist(), 3) == [1, 3, 5]
    assert time.process_time() - began < 3


def test_drawing_keeps_size_and_original_and_uses_the_colour_of_the_class() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw_detections(image, make([7], [[100, 80, 180, 160]], [0.5], [1]), ("a", "b"))
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert not image.any()
    red, green, blue = (int(class_colors(2)[1][i : i + 2], 16) for i in (1, 3, 5))
    assert (drawn[80:161, 180] == (red, green, blue)).all(axis=1).any()
    assert not drawn[120, 140].any()


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (40, 40), (1200, 900)])
@pytest.mark.parametrize("draw", [lambda i, d: draw_detections(i, d, ("täxi 数字", "b")), draw_ignored])
def test_drawing_works_at_any_size_and_without_boxes(draw: Any, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    boxes = make([0, 0], [[0, 0, size[1], size[0]], [0, 0, 0.5, 0.5]], [1.0, 0.0], [0, 1])
    assert draw(image, boxes).shape == image.shape
    assert (draw(image, empty()) == image).all()


def test_colours_are_distinct_and_stable() -> None:
    many = class_colors(80)
    assert len(set(many)) == 80
    assert class_colors(5) == many[:5]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in many)
