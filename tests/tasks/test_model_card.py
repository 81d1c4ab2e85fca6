"""What the registry says about a version."""

from __future__ import annotations

from pathlib import Path

from tasks.model_card import MAX_LENGTH, StudentFacts, student_card, teacher_card
from tasks.teachers import Teacher
from tests.tasks.registered import detector


def _facts(teachers: list[Teacher], classes: list[str], **changes: object) -> StudentFacts:
    interval = {"AP": {"low": 10.0, "high": 20.0}}
    row = {"name": "s", "role": "student", "scope": "all", "classes": 1, "images": 8, "boxes": 9}
    measured = {"AP": 15.0, "AP50": 30.0, "interval": interval, "per_class": {classes[0]: {"AP": 15.0}}}
    facts = {
        "name": "s",
        "teachers": teachers,
        "classes": classes,
        "images": {"images": 20, "quarantined": 1},
        "source": "pool",
        "labels": {"labels": 7, "ignore_regions": 2},
        "student": {"architecture": "yolox_pico"},
        "evaluations": {"val": [{**row, **measured}]},
        "digests": {"composition": "c" * 64},
        "run": "#/experiments/1/runs/r",
        **changes,
    }
    return StudentFacts(**facts)  # type: ignore[arg-type]


def test_a_student_s_card_says_where_it_comes_from_and_what_is_not_known(tmp_path: Path) -> None:
    local = detector(tmp_path, "local", license="unknown")
    registered = Teacher("far", local.folder, local.manifest, "models:/teachers.far/3")
    card = student_card(_facts([registered, local], ["cat", "dog"]))
    assert "[far version 3](#/models/teachers.far/versions/3)" in card
    assert "local (not in the registry)" in card
    assert "| **student s** | all | 15.0 | 10.0 to 20.0 | 30.0 |" in card
    assert "20 used, 1 left out" in card
    assert "Not measured on val, which has none: dog." in card
    assert "Measured on 8 images of val only." in card
    assert "Licence unknown of: far, local" in card
    assert "Nothing was measured" in student_card(_facts([local], ["cat"], evaluations={}))


def test_names_of_strangers_are_no_markup(tmp_path: Path) -> None:
    odd = detector(tmp_path, "odd", classes=("<img src=x>", "[a](b)|c"), license="**free** | `x`")
    card = teacher_card("odd", odd.manifest)
    assert r"\<img src=x\>, \[a\](b)\|c" in card
    assert r"\*\*free\*\* \| \`x\`" in card


def test_a_card_fits_into_the_database(tmp_path: Path) -> None:
    classes = [f"class number {number} with a long name" for number in range(500)]
    teachers = [detector(tmp_path, "t", license="long " * 200)] * 62
    card = student_card(_facts(teachers, classes, evaluations={}))
    assert len(card) <= MAX_LENGTH
    assert "and 400 more" in card
