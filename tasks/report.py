"""The report page of a composition: one HTML file that needs nothing else.

Everything in it (pictures, plots, styles) lies inside the file, so it can be
mailed, archived or opened years later. Parts without data are left out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from numpy.typing import NDArray
from PIL import Image

from composition import diagnostics
from composition.confirmation import confirmed_by
from composition.detections import Detections
from tasks import diagnostics_figures
from tasks import report_figures as figures
from tasks.drawing import draw_detections, draw_ignored
from tasks.report_comparison import comparison
from tasks.report_data import Cell, Picture, ReportData, ResultRow
from tasks.store import write_atomic

REPORT_FILE = "report.html"
# with more classes than this, per-class columns would not fit on the page
_MAX_COLUMNS = 12
_PICTURE_SIDE = 480


def write_report(folder: Path, report: ReportData) -> Path:
    """Writes ``report.html``, whole or not at all.

    Args:
        folder: Where to; is created.
        report: What to show; empty fields leave their section out.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / REPORT_FILE, render(report).encode())
    return folder / REPORT_FILE


def template(name: str, **filters: Callable[..., str]) -> Template:
    """A page of ``templates/``: everything put into it is escaped, and nothing may be missing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)


def render(report: ReportData) -> str:
    """The page as text; every name in it is escaped."""
    colors = figures.detector_colors(report.results)
    return template("report.html.j2", percent=_percent, duration=_duration).render(
        report=report,
        tiles=headline(report.results),
        results=results_table(report),
        coverage=coverage_groups(report),
        pictures=[_picture_row(picture, report.classes) for picture in report.pictures],
        legend=bool(report.pictures) and any(cell.ignored for p in report.pictures for cell in p.cells),
        figures={
            "per_class": figures.per_class(report.results, report.classes),
            "pseudo_labels": figures.pseudo_labels(report.pseudo_labels, colors),
            "scores": figures.score_histograms(report.scores),
            "training": figures.training(report.training),
        },
        diagnosis=_diagnosis(report),
        comparison=comparison(report),
        colors=colors,
    )


def _diagnosis(report: ReportData) -> dict[str, Any] | None:
    if report.diagnosis is None:
        return None
    return {
        "images": report.diagnosis.images,
        "labels": sum(one.positives for one in report.diagnosis.classes),
        "ignored": sum(one.ignored for one in report.diagnosis.classes),
        "calibrated": report.diagnosis.calibrated,
        "quality": report.diagnosis.quality,
        "warnings": diagnostics.warnings(report.diagnosis),
        "figures": diagnostics_figures.inline(report.diagnosis),
    }


def headline(results: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """The three figures at the top: student, best single teacher, best ensemble, on all classes."""
    tiles = []
    student = _best(results, "student")
    titles: dict[Literal["student", "teacher", "ensemble"], str] = {
        "student": "Student",
        "teacher": "Best teacher alone",
        "ensemble": "Best ensemble of the teachers",
    }
    for role, title in titles.items():
        row = _best(results, role)
        if row is None:
            continue
        lead = student.ap - row.ap if student and role != "student" else None
        tiles.append({"role": role, "title": title, "row": row, "lead": lead})
    return tiles


def _best(results: Sequence[ResultRow], role: str) -> ResultRow | None:
    rows = [row for row in results if row.role == role and row.scope == "all"]
    return max(rows, key=lambda row: row.ap, default=None)


def results_table(report: ReportData) -> dict[str, Any]:
    """Lines and columns of the results, with the best of each column marked.

    Returns:
        ``columns``: class names that have a column of their own (none when
        there are too many); ``lines``: one a detector with ``own`` and ``all``
        (`ResultRow` or None); ``best`` and ``best_of_class``: highest value by
        column, baselines left out, for they had labels; ``wide``: the classes
        of a table with a row a class instead, when there are many.
    """
    lines: dict[str, dict[str, Any]] = {}
    for row in report.results:
        line = lines.setdefault(row.name, {"name": row.name, "role": row.role, "own": None, "all": None})
        line[row.scope] = row
    for line in lines.values():
        line["per_class"] = (line["all"] or line["own"]).per_class
    rivals = [line for line in lines.values() if line["role"] != "baseline"]
    columns = report.classes if len(report.classes) <= _MAX_COLUMNS else ()
    return {
        "lines": list(lines.values()),
        "columns": columns,
        "wide": () if columns else report.classes,
        "any_own": any(line["own"] for line in lines.values()),
        "best": {
            measure: _highest(getattr(line["all"], measure) for line in rivals if line["all"])
            for measure in ("ap", "ap50")
        },
        "best_of_class": {
            name: _highest(line["per_class"].get(name) for line in rivals) for name in report.classes
        },
    }


def _highest(values: Any) -> float | None:
    """The best value as it is printed, so that equal print means equal mark; None without rivals."""
    known = [round(value, 1) for value in values if value is not None]
    return max(known) if len(known) > 1 else None


def coverage_groups(report: ReportData) -> list[dict[str, Any]]:
    """Classes grouped by the teachers that know them, best covered first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in report.classes:
        known = report.coverage.get(name, {})
        experts = tuple(teacher.name for teacher in report.teachers if known.get(teacher.name))
        groups.setdefault(experts, []).append(name)
    ordered = sorted(groups.items(), key=lambda item: -len(item[0]))
    return [{"teachers": teachers, "classes": names} for teachers, names in ordered]


def choose_pictures(views: Mapping[str, Detections], image_ids: Sequence[int], count: int = 6) -> list[int]:
    """Images on which the teachers complement each other.

    First come images to which *each* teacher adds boxes that no other teacher
    has (same class, IoU of at least 0.5); unsure boxes count for less, and
    more than two sure ones a teacher do not count, lest crowded images always
    win. Then those on which teachers also agree; then the smaller id.

    Args:
        views: Each teacher's detections, as kept, in the union label space, on images of ``image_ids``.
        image_ids: The images to choose from.
        count: How many.

    Returns:
        Image ids, best first.
    """
    ids = np.sort(np.array(image_ids, np.int64))
    weakest, agreed = np.full(len(ids), 1.5 if views else 0.0), np.zeros(len(ids), np.bool_)
    for name, one in views.items():
        shared = np.zeros(len(one), np.bool_)
        for other in (view for rival, view in views.items() if rival != name):
            shared |= confirmed_by(one, other, 0.5)
        place = np.searchsorted(ids, one.image_id)
        alone = np.bincount(place, np.where(shared, 0, one.score), len(ids))
        weakest = np.minimum(weakest, alone)
        agreed |= np.bincount(place, shared, len(ids)) > 0
    # by three keys, the last one first in rank
    order = np.lexsort((ids, ~agreed, -weakest.round(2)))
    return [int(image_id) for image_id in ids[order[:count]]]


def _picture_row(picture: Picture, classes: Sequence[str]) -> dict[str, Any]:
    cells = [{"title": "Unlabeled image", "uri": picture_uri(_resized(picture.image))}]
    for cell in picture.cells:
        uri = picture_uri(_drawn(picture.image, cell, classes))
        cells.append({"title": cell.title, "uri": uri})
    # more than five side by side would be too small to read
    columns = len(cells) if len(cells) <= 5 else -(-len(cells) // 2)
    return {"caption": picture.caption, "cells": cells, "columns": columns}


def _drawn(image: NDArray[np.uint8], cell: Cell, classes: Sequence[str]) -> NDArray[np.uint8]:
    canvas = _resized(image)
    scale = canvas.shape[1] / image.shape[1]
    if cell.ignored is not None:
        canvas = draw_ignored(canvas, _scaled(cell.ignored, scale))
    # five pictures share the width of a page: labels must survive being shown at half size
    return draw_detections(canvas, _scaled(cell.detections, scale), classes, text_scale=1.75)


def _scaled(detections: Detections, scale: float) -> Detections:
    return Detections(
        detections.image_id,
        (detections.boxes * scale).astype(np.float32),
        detections.score,
        detections.class_id,
        detections.spread,
    )


def _resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brings the longer side to the one size at which all pictures are drawn."""
    scale = _PICTURE_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), np.uint8)


def picture_uri(image: NDArray[np.uint8]) -> str:
    """An RGB picture as a JPEG in a ``data:`` address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=86, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"  # noqa: RUF001


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
