"""Rows of a comparison, and the report's section that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from composition import detections
from tasks.comparison import Row, examine, with_leads
from tasks.report import render
from tasks.report_comparison import comparison, confused
from tasks.report_data import ReportData, ResultRow

CLASSES = ["cat", "dog"]
DATASET: dict[str, Any] = {
    "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 11)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [0, 0, 20, 20]}
        for number in range(1, 11)
    ],
}


def found(images: range) -> detections.Detections:
    return detections.make(
        list(images), [[0, 0, 20, 20]] * len(images), [0.9] * len(images), [n % 2 for n in images]
    )


def row(name: str, role: str, scope: str, images: range, categories: list[str]) -> Row:
    return Row(name, role, scope, examine(found(images), DATASET, CLASSES, categories))


def test_the_student_is_compared_on_the_categories_of_each_row() -> None:
    rows = with_leads(
        [
            row("low", "teacher", "own", range(1, 8), ["dog"]),
            row("low", "teacher", "all", range(1, 8), CLASSES),
            row("pupil", "student", "all", range(1, 11), CLASSES),
        ]
    )
    own, everything, student = (one.to_dict() for one in rows)
    assert list(own["lead"]["per_class"]) == ["dog"]
    assert set(everything["lead"]["per_class"]) == set(CLASSES)
    assert everything["lead"]["AP"]["value"] > 0
    assert "lead" not in student
    assert student["confusion"]["counts"] == [[5, 0, 0], [0, 5, 0], [0, 0, 0]]
    assert "confusion" not in everything
    assert everything["interval"]["AP"]["low"] <= everything["AP"] <= everything["interval"]["AP"]["high"]
    json.dumps([own, everything, student])


def test_without_a_student_nobody_leads() -> None:
    rows = with_leads([row("low", "teacher", "all", range(1, 8), CLASSES)])
    assert rows[0].lead is None


COST = {
    "profile": {"parameters": 900_000, "flops": None, "bytes": 3_700_000},
    "single": {"batch": 1, "median": 10.0, "low": 9.5, "high": 11.0, "calls": 20},
    "batched": {"batch": 8, "median": 5.0, "low": 4.5, "high": 6.0, "calls": 20},
    "threads": 2,
    "device": "cpu",
    "machine": "<box>",
}
DATA = ReportData(
    title="t",
    classes=("cat", "dog"),
    results=(
        ResultRow(
            "low",
            "teacher",
            "all",
            40.0,
            60.0,
            interval={"low": 35.0, "high": 45.0},
            lead={"value": 3.0, "low": 1.0, "high": 5.0, "p": 0.004},
            cost=COST,
        ),
        ResultRow("pupil", "student", "all", 43.0, 63.0, interval={"low": 38.0, "high": 48.0}, cost=COST),
    ),
    confusion={
        "classes": ["cat", "<dog>"],
        "counts": [[5, 1, 0], [0, 4, 2], [3, 0, 0]],
        "iou": 0.5,
        "score": 0.3,
    },
)


def test_the_page_shows_interval_lead_cost_and_confusion() -> None:
    page = render(DATA)
    for words in (
        "35.0 to 45.0",
        "+3.0",
        "+1.0 to +5.0",
        "0.004",
        "10.0 (9.5 to 11.0)",
        "0.90 M",
        "not counted",
    ):
        assert words in page
    assert "Student minus the best single teacher (low) over all classes: +3.0 AP" in page
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert "&lt;box&gt;" in page


def test_a_lead_that_may_be_none_is_said_to_be_unknown() -> None:
    unsure = replace(DATA.results[0], lead={"value": 1.0, "low": -1.0, "high": 3.0, "p": 0.3})
    shown = comparison(replace(DATA, results=(unsure, DATA.results[1])))
    assert shown is not None
    assert "do not tell" in shown["verdict"]
    assert not shown["lines"][0]["excludes_zero"]
    # only what excludes zero is bold, on the page, too
    assert '<td class="number">+1.0</td>' in render(replace(DATA, results=(unsure, DATA.results[1])))


def test_old_results_have_no_such_section() -> None:
    assert comparison(ReportData(title="t", results=(ResultRow("low", "teacher", "all", 1.0, 2.0),))) is None
    assert 'id="comparison"' not in render(ReportData(title="t"))


def test_many_classes_are_listed_by_their_worst_pairs() -> None:
    names = [f"c{number}" for number in range(20)]
    counts = [[0] * 21 for _ in range(21)]
    counts[3][4], counts[5][5], counts[3][3] = 7, 9, 3
    facts = confused({"classes": names, "counts": counts, "iou": 0.5, "score": 0.3})
    assert facts["rows"] == []
    assert facts["worst"] == [("c3", "c4", 7, 70.0)]
