"""The report's section on how sure the figures are, what detectors cost, and which classes are confused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.report_data import ReportData, ResultRow

# a larger matrix cannot be read: its worst entries are listed instead
_MATRIX_CLASSES = 16
_LISTED = 15


def comparison(report: ReportData) -> dict[str, Any] | None:
    """What ``comparison.html.j2`` shows; None where nothing of it was measured.

    Returns:
        ``lines``: one a result row, in words; ``leads`` and ``costs``: whether
        any line has one; ``verdict``: a sentence on the best teacher;
        ``conditions``: a sentence on how time was measured; ``confusion``: see
        `confused`.
    """
    rows = [row for row in report.results if row.interval or row.lead or row.cost]
    if not rows and not report.confusion:
        return None
    costs = [row.cost for row in rows if row.cost]
    return {
        "lines": [_line(row, len(report.classes)) for row in rows],
        "leads": any(row.lead for row in rows),
        "costs": bool(costs),
        "verdict": _verdict(report),
        "conditions": _conditions(costs[0]) if costs else "",
        "confusion": confused(report.confusion) if report.confusion else None,
    }


def _line(row: ResultRow, classes: int) -> dict[str, Any]:
    line: dict[str, Any] = {
        "name": row.name,
        "role": row.role,
        "scope": f"all {classes} classes" if row.scope == "all" else "its own classes",
        "ap": f"{row.ap:.1f}",
        "interval": _span(row.interval),
        "lead": "",
        "lead_interval": "",
        "p": "",
        "excludes_zero": False,
        "cost": None,
    }
    if row.lead:
        line["lead"] = f"{row.lead['value']:+.1f}"
        line["lead_interval"] = _span(row.lead, "+.1f")
        line["p"] = f"{row.lead['p']:.3f}"
        line["excludes_zero"] = row.lead["low"] > 0 or row.lead["high"] < 0
    # a detector costs the same whatever it is measured on: said once
    if row.cost and row.scope == "all":
        size = row.cost["profile"]
        line["cost"] = [
            _speed(row.cost["single"]),
            _speed(row.cost["batched"]),
            _scaled(size["parameters"], 1e6, "M"),
            _scaled(size["flops"], 1e9, "G"),
            _scaled(size["bytes"], 1e6, "MB"),
        ]
    return line


def _span(ends: Mapping[str, float] | None, form: str = ".1f") -> str:
    return f"{ends['low']:{form}} to {ends['high']:{form}}" if ends else ""


def _speed(speed: Mapping[str, float]) -> str:
    return f"{speed['median']:.1f} ({speed['low']:.1f} to {speed['high']:.1f})"


def _scaled(value: float | None, unit: float, name: str) -> str:
    return "not counted" if value is None else f"{value / unit:.2f} {name}"


def _verdict(report: ReportData) -> str:
    """The student against the best single teacher, in a sentence."""
    teachers = [row for row in report.results if row.role == "teacher" and row.scope == "all" and row.lead]
    if not teachers:
        return ""
    best = max(teachers, key=lambda row: row.ap)
    lead = best.lead or {}
    sentence = (
        f"Student minus the best single teacher ({best.name}) over all classes: {lead['value']:+.1f} AP, "
        f"95 % interval {_span(lead, '+.1f')}"
    )
    if lead["low"] <= 0 <= lead["high"]:
        return sentence + ": these images do not tell which of the two is better."
    return sentence + "."


def _conditions(cost: Mapping[str, Any]) -> str:
    threads = cost["threads"]
    return (
        f"Milliseconds an image from decoded pixels to detections, median and quartiles, on {cost['device']} "
        f"with {threads} thread{'s' if threads != 1 else ''} ({cost['machine']}). Ensembles: the sum of the "
        "teachers and the fusion."
    )


def confused(confusion: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix for the page.

    Returns:
        ``names`` and ``rows`` (true class, and for every column the count and
        its share of the row in percent), or where there are too many classes
        ``worst``: true class, given class, count, share.
    """
    names = [*confusion["classes"], "background"]
    counts = np.array(confusion["counts"], np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 100
    shares[-1] = 0  # of the background nothing can be a share
    facts = {"iou": confusion["iou"], "score": confusion["score"], "names": names, "rows": [], "worst": []}
    if len(confusion["classes"]) <= _MATRIX_CLASSES:
        facts["rows"] = [
            (name, list(zip(row.tolist(), share.tolist(), strict=True)))
            for name, row, share in zip(names, counts, shares, strict=True)
        ]
        return facts
    wrong = counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_LISTED].tolist():
        true, given = divmod(place, len(wrong))
        if wrong[true, given]:
            share = float(shares[true, given])
            facts["worst"].append((names[true], names[given], int(wrong[true, given]), share))
    return facts
