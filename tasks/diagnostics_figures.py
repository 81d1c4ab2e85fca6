"""The plots of a diagnosis, as inline SVG for the report and as PNG; none where there is nothing to plot."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from composition.calibration_error import Reliability
from composition.diagnostics import MINIMUM_BOXES, ClassDiagnosis, Diagnosis
from composition.domain_alarm import BOX_SCORE, FEATURES, DomainCheck, ScoreProfile
from tasks.report_figures import (
    ACCENT,
    FAINT,
    INK,
    KEPT,
    STYLE,
    TEACHER_COLORS,
    as_svg,
    legend,
    short,
)

_ALARM = "#c2410c"
_PALE = "#c3c9d1"
_BLUES = LinearSegmentedColormap.from_list("blues", ["#f6f8fc", "#93b4f5", ACCENT, "#1e3a8a"])
_PAPER: dict[str, Any] = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
_LINES = 40
_SHOWN = 120
_BARS = 32  # divides the bins of raw and of fused scores
_TITLES = {
    "best_score": "best score of an image",
    "mean_score": "mean score of an image",
    "boxes": f"boxes an image (score ≥ {BOX_SCORE})",
}


def teacher_colors(names: Sequence[str]) -> dict[str, str]:
    """One colour a teacher, in the order in which the report gives them."""
    return {name: TEACHER_COLORS[t % len(TEACHER_COLORS)] for t, name in enumerate(names)}


def classes(diagnosis: Diagnosis) -> Figure | None:
    """Boxes by class on a log axis beside the precision to expect (and measured, where labels are).

    Of more than 120 classes, the 60 with the most labels and the 60 with the fewest.
    """
    rows = sorted(diagnosis.classes, key=lambda one: (-one.positives, -one.fused, one.name))
    rows = [one for one in rows if one.fused or one.quality]
    if not rows:
        return None
    rows = rows if len(rows) <= _SHOWN else [*rows[: _SHOWN // 2], *rows[-_SHOWN // 2 :]]
    most = max(max(one.positives + one.ignored, *one.confident.values(), 0) for one in rows)
    blocks = -(-len(rows) // _LINES)
    lines = -(-len(rows) // blocks)
    shares = diagnosis.calibrated or diagnosis.quality is not None
    panels = 2 if shares else 1
    figure = Figure(figsize=(11, 1.1 + 0.19 * max(lines, 4)), layout="constrained")
    grid = figure.subplots(1, blocks * panels, squeeze=False, width_ratios=([1.0, 0.8][:panels]) * blocks)[0]
    for block in range(blocks):
        part = rows[block * lines : (block + 1) * lines]
        counts = grid[block * panels]
        _counts(counts, part, lines, diagnosis.teachers, most)
        if shares:
            _shares(grid[block * panels + 1], part, lines, diagnosis)
    handles: dict[str, Any] = {}
    for axes in grid[:panels]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # what the labels are comes first, who would have given them last
    handles = {name: handles[name] for name in sorted(handles, key=lambda name: name in diagnosis.teachers)}
    titles = [f"{name} (confident)" if name in diagnosis.teachers else name for name in handles]
    figure.legend(
        list(handles.values()),
        titles,
        loc="outside upper left",
        ncols=4,
        handlelength=1,
        columnspacing=1.4,
    )
    return figure


def _lines(axes: Axes, rows: Sequence[ClassDiagnosis], lines: int, *, named: bool) -> None:
    axes.set_yticks(range(len(rows)), short([one.name for one in rows], 16) if named else [""] * len(rows))
    axes.grid(axis="y", lw=0.5)
    axes.set_ylim(lines - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if named:
        for label, one in zip(axes.get_yticklabels(), rows, strict=True):
            if one.verdict != "enough":
                label.set_color(_ALARM)


def _counts(
    axes: Axes, rows: Sequence[ClassDiagnosis], lines: int, teachers: Sequence[str], most: int
) -> None:
    places = np.arange(len(rows))
    positives = np.array([one.positives for one in rows])
    reach = np.array([one.positives + one.ignored for one in rows])
    axes.hlines(places, positives, reach, color=_PALE, lw=5, label="ignored besides", zorder=1)
    colors = teacher_colors(teachers)
    for name in teachers:
        values = [one.confident.get(name, np.nan) for one in rows]
        axes.scatter(values, places, 34, marker="|", color=colors[name], lw=1.6, label=name, zorder=2)
    axes.scatter(positives, places, 26, color=ACCENT, label="positive labels", zorder=3)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(-0.3, max(most, 10 * MINIMUM_BOXES) * 1.3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(MINIMUM_BOXES, color=_ALARM, lw=0.9, ls=(0, (4, 3)), label=f"{MINIMUM_BOXES} labels")
    axes.set_xlabel("boxes (log)")
    _lines(axes, rows, lines, named=True)


def _shares(axes: Axes, rows: Sequence[ClassDiagnosis], lines: int, diagnosis: Diagnosis) -> None:
    places = np.arange(len(rows))
    if diagnosis.quality is not None:
        for measure, marker, color, text in (
            ("mean_quality", "o", TEACHER_COLORS[0], "measured precision (IoU 0.5 to 0.95)"),
            ("recall", "x", TEACHER_COLORS[1], "recall (IoU 0.5)"),
        ):
            values = [_share(getattr(one.quality, measure) if one.quality else None) for one in rows]
            face = "none" if marker == "o" else color
            axes.scatter(values, places, 24, marker=marker, facecolors=face, edgecolors=None if marker == "x"
                         else color, lw=1.3, label=text, zorder=2)  # fmt: skip
    if diagnosis.calibrated:
        values = [_share(one.expected_precision) for one in rows]
        axes.scatter(values, places, 24, marker="D", color=ACCENT, label="expected precision", zorder=3)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes.set_xlabel("share (%)")
    _lines(axes, rows, lines, named=False)


def _share(value: float | None) -> float:
    return np.nan if value is None else value


def agreement(diagnosis: Diagnosis) -> Figure | None:
    """Who confirms whose confident boxes."""
    count = len(diagnosis.teachers)
    if count < 2 or not diagnosis.asked.any():
        return None
    figure = Figure(figsize=(min(11, 3.6 + 1.15 * count), 1.5 + 0.48 * count), layout="constrained")
    axes = figure.subplots()
    axes.imshow(diagnosis.agreement, _BLUES, vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(diagnosis.agreement):
        if row != column:
            asked = int(diagnosis.asked[row, column])
            color = "white" if share > 0.45 else INK
            text = f"{share:.0%}" if asked else "–"  # noqa: RUF001
            axes.annotate(text, (column, row), (0, 3), textcoords="offset points", color=color, weight="bold",
                          ha="center", va="center")  # fmt: skip
            axes.annotate(f"of {asked:,}" if asked else "", (column, row), (0, -8), color=color, size=7,
                          textcoords="offset points", ha="center", va="center")  # fmt: skip
    names = short(diagnosis.teachers, 24)
    axes.set_xticks(range(count), [name if len(name) < 14 else _broken(name) for name in names])
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelsize=9 if count <= 6 else 6)
    axes.xaxis.tick_top()
    axes.set_xlabel("are confirmed by", color=FAINT)
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("confident boxes of", color=FAINT)
    axes.spines[:].set_visible(False)
    for edge in range(1, count):
        axes.axhline(edge - 0.5, color="white", lw=2)
        axes.axvline(edge - 0.5, color="white", lw=2)
    return figure


def _broken(name: str) -> str:
    """A long name in two lines, broken near its middle."""
    places = [place for place, letter in enumerate(name) if letter in "_-. "] or [len(name) // 2]
    cut = min(places, key=lambda place: abs(place - len(name) // 2)) + 1
    return f"{name[:cut]}\n{name[cut:]}"


def scores(diagnosis: Diagnosis) -> Figure | None:
    """Score histograms of every teacher and of the fused boxes, the thresholds drawn into the latter."""
    shown = [(name, diagnosis.raw[t]) for t, name in enumerate(diagnosis.teachers) if diagnosis.raw[t].any()]
    if not shown:
        return None
    panels = [*shown, ("fused", diagnosis.fused)]
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(11, 0.4 + 2.2 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    colors = teacher_colors(diagnosis.teachers)
    for axes, (name, counts) in zip(grid.flat, panels, strict=False):
        _histogram(axes, name, counts, colors.get(name, KEPT))
    _thresholds(grid.flat[len(panels) - 1], diagnosis)
    _trim(grid, len(panels), "score")
    for row in grid:
        row[0].set_ylabel("boxes (log)")
    return figure


def _trim(grid: NDArray[Any], used: int, label: str) -> None:
    """Hides the panels beyond those used; the lowest of each column names its axis."""
    columns = grid.shape[1]
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < used)
        if place < used <= place + columns:
            axes.set_xlabel(label)
            axes.tick_params(labelbottom=True)


def _histogram(axes: Axes, name: str, counts: NDArray[np.int64], color: str) -> None:
    pairs = counts.reshape(_BARS, -1).sum(axis=1)
    edges = np.linspace(0, 1, len(pairs) + 1)
    axes.bar(edges[:-1], pairs, np.diff(edges), align="edge", color=color, lw=0.3, ec="w")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, 1)
    axes.set_title(short([name], 24)[0])
    axes.grid(axis="y")


def _thresholds(axes: Axes, diagnosis: Diagnosis) -> None:
    # the median over the classes, and from where to where; a class without boxes parts none
    used = [one for one in diagnosis.classes if one.fused]
    for limits, color, text in (
        ([one.ignore for one in used if one.ignore is not None], INK, "ignored"),
        ([one.keep for one in used if one.keep is not None], ACCENT, "kept"),
    ):
        if not limits:
            continue
        low, middle, high = np.quantile(limits, [0, 0.5, 1]).tolist()
        axes.axvline(middle, color=color, lw=1.4)
        place = 0.97 if color == ACCENT else 0.85
        span = "" if high - low < 0.005 else f" ({low:.2f} to {high:.2f})"
        axes.annotate(f"{text} ≥ {middle:.2f}{span}", (0.99, place), xycoords="axes fraction", ha="right",
                      va="top", color=color, size=7.5, bbox=_PAPER)  # fmt: skip


def domain(diagnosis: Diagnosis) -> Figure | None:
    """Cumulative distributions over the images: a teacher's own validation against the pool."""
    shown = [name for name, check in diagnosis.domain.items() if check.features]
    if not shown:
        return None
    figure = Figure(figsize=(11, 0.9 + 1.75 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(FEATURES), squeeze=False, sharey=True)
    for row, name in zip(grid, shown, strict=True):
        own, pool = diagnosis.profiles[name]
        if own is not None:
            _teacher_domain(row, name, own, pool, diagnosis.domain[name])
    for axes, feature in zip(grid[-1], FEATURES, strict=True):
        axes.set_xlabel(_TITLES[feature])
    legend(figure, grid[0, 0])
    return figure


def _teacher_domain(
    row: Sequence[Axes], name: str, own: ScoreProfile, pool: ScoreProfile, check: DomainCheck
) -> None:
    for axes, feature in zip(row, FEATURES, strict=True):
        shift = check.features[feature]
        one, two = (getattr(part, feature).cumsum() / part.images for part in (own, pool))
        values = np.arange(len(one)) if feature == "boxes" else (np.arange(len(one)) + 1) / len(one)
        color = _ALARM if check.verdict == "alarm" else ACCENT
        axes.fill_between(values, one, two, step="post", color=color, alpha=0.12, lw=0)
        axes.step(values, one, where="post", color=FAINT, lw=1.4, label="its own validation images")
        axes.step(values, two, where="post", color=color, lw=1.8, ls=(0, (5, 1.5)), label="these images")
        axes.annotate(f"distance {shift.distance:.2f}", (0.98, 0.06), xycoords="axes fraction", ha="right",
                      color=color, weight="bold", bbox=_PAPER)  # fmt: skip
        axes.set_ylim(0, 1.02)
        # the long tail of a few crowded images would squeeze the rest
        most = int(np.searchsorted(np.minimum(one, two), 0.995)) if feature == "boxes" else 1
        axes.set_xlim(0, max(most, 1) * 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        axes.grid()
    verdict = {"alarm": "alarm", "alike": "alike"}[check.verdict]
    row[0].set_title(f"{short([name], 34)[0]}: {verdict}", color=_ALARM if verdict == "alarm" else INK)
    row[0].set_ylabel("images (%)")


def reliability(curves: Mapping[str, Mapping[str, Reliability]], target: str) -> Figure | None:
    """Reliability curves: what share was right at each score, a panel a teacher.

    Args:
        curves: Teacher name to label (``before``, ``after``) to curve.
        target: What the curves were measured against, in words.
    """
    if not curves:
        return None
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(11, 0.7 + 3.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, by_label) in zip(grid.flat, curves.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=(0, (2, 2)), zorder=1)
        styles = zip(((TEACHER_COLORS[0], "s"), (ACCENT, "o")), by_label.items(), strict=False)
        for (color, marker), (label, curve) in styles:
            used = curve.count >= 5
            size = 6 + 60 * np.sqrt(curve.count[used] / curve.count.sum())
            axes.plot(curve.mean_score[used], curve.mean_target[used], color=color, lw=1.2, zorder=2)
            axes.scatter(curve.mean_score[used], curve.mean_target[used], size, color=color, marker=marker,
                         label=label, zorder=3, lw=0)  # fmt: skip
        axes.set_title(name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.grid()
    _trim(grid, len(curves), "score")
    for row in grid:
        row[0].set_ylabel(target)
    legend(figure, grid[0, 0])
    return figure


_MAKERS: dict[str, Callable[[Diagnosis], Figure | None]] = {
    "classes": classes,
    "agreement": agreement,
    "scores": scores,
    "domain": domain,
}


def inline(diagnosis: Diagnosis) -> dict[str, Markup | None]:
    """Every plot as SVG text for the report."""
    return {name: as_svg(make)(diagnosis) for name, make in _MAKERS.items()}


def pictures(diagnosis: Diagnosis) -> dict[str, bytes]:
    """Every plot that there is as the bytes of a PNG file."""
    found = {name: to_png(make, diagnosis) for name, make in _MAKERS.items()}
    return {name: data for name, data in found.items() if data is not None}


def to_png(make: Callable[..., Figure | None], *arguments: object) -> bytes | None:
    """Draws in the report's style, as PNG; the same bytes for the same data."""
    with matplotlib.rc_context(STYLE):
        figure = make(*arguments)
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
