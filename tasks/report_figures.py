"""The plots of the report, as inline SVG text; None where there is nothing to plot."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from tasks.report_data import ResultRow, ScoreHistogram, TrainingPoint

INK, FAINT, GRID, ACCENT, KEPT = "#1f2937", "#6b7280", "#e5e7eb", "#2563eb", "#7ea6f7"
TEACHER_COLORS = ("#e8a33d", "#3fa796", "#a678c8", "#d9707e", "#8a9a3b", "#5b9bc9")
_ENSEMBLES = ("#9aa3af", "#6f7a88", "#c3c9d1")
_AGREED = ("#2563eb", "#7ea6f7", "#1e3a8a", "#60a5fa", "#93b4f5")
STYLE: dict[Any, Any] = {
    # text stays text (searchable, in the page's font) and class names are never taken for formulas
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": "#cbd5e1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
}
Maker = Callable[..., "Figure | None"]


def as_svg(make: Maker) -> Callable[..., Markup | None]:
    """Draws in our style and turns the figure into text for the page."""

    @wraps(make)
    def svg(*arguments: Any) -> Markup | None:
        # the salt keeps ids of two figures on one page apart, and the bytes the same each time
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": make.__name__}):
            figure = make(*arguments)
            if figure is None:
                return None
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        text = buffer.getvalue()
        return Markup(text[text.index("<svg") :])  # noqa: S704 - matplotlib escapes every label

    return svg


def detector_colors(results: Sequence[ResultRow]) -> dict[str, str]:
    """One colour a detector, the same in the table and in the plots."""
    colors: dict[str, str] = {}
    seen = {"teacher": 0, "ensemble": 0}
    for row in results:
        if row.name in colors:
            continue
        if row.role == "student":
            colors[row.name] = ACCENT
        elif row.role == "baseline":
            colors[row.name] = "#111827"
        else:
            shades = TEACHER_COLORS if row.role == "teacher" else _ENSEMBLES
            colors[row.name] = shades[seen[row.role] % len(shades)]
            seen[row.role] += 1
    return colors


@as_svg
def per_class(results: Sequence[ResultRow], classes: Sequence[str]) -> Figure | None:
    """AP by class: grouped bars, or one line of dots a class when there are many."""
    rows = {row.name: row for row in results if row.per_class}
    rows |= {row.name: row for row in results if row.per_class and row.scope == "all"}
    shown = [name for name in classes if any(name in row.per_class for row in rows.values())]
    if not shown:
        return None
    colors = detector_colors(results)
    draw = _bars if len(shown) <= 16 else _dots
    return draw(rows, shown, colors)


def _bars(rows: Mapping[str, ResultRow], shown: Sequence[str], colors: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for index, (name, row) in enumerate(rows.items()):
        places = np.arange(len(shown)) + (index - (len(rows) - 1) / 2) * width
        axes.bar(places, _values(row, shown), width * 0.92, color=colors[name], label=name)
    axes.set_xticks(range(len(shown)), short(shown))
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(shown) - 0.45)
    axes.set_ylabel("AP (%)")
    axes.grid(axis="y")
    legend(figure, axes)
    return figure


def _dots(rows: Mapping[str, ResultRow], shown: Sequence[str], colors: Mapping[str, str]) -> Figure:
    columns = 2 if len(shown) > 24 else 1
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(11, 1.0 + 0.19 * lines), layout="constrained")
    grid = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for column, axes in enumerate(grid):
        part = shown[column * lines : (column + 1) * lines]
        places = np.arange(len(part))
        for name, row in rows.items():
            student = row.role == "student"
            size, order = (46, 3) if student else (26, 2)
            axes.scatter(_values(row, part), places, size, color=colors[name], label=name, zorder=order)
        axes.set_yticks(places, short(part))
        axes.set_ylim(lines - 0.4, -0.6)
        axes.set_xlabel("AP (%)")
        axes.tick_params(axis="y", length=0)
        axes.grid()
    grid[0].set_xlim(left=-2)
    legend(figure, grid[0])
    return figure


def _values(row: ResultRow, classes: Sequence[str]) -> list[float]:
    return [row.per_class.get(name, np.nan) for name in classes]


def short(names: Sequence[str], limit: int = 18) -> list[str]:
    """Names cut to so many letters."""
    return [name if len(name) <= limit else name[: limit - 1] + "…" for name in names]


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend of some axes above the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    # a legend of the figure: one of the axes would take its width from them
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(len(labels), 6),
        handlelength=1,
        handleheight=1,
        columnspacing=1.6,
    )


@as_svg
def pseudo_labels(counts: Mapping[str, Mapping[str, int]], colors: Mapping[str, str]) -> Figure | None:
    """Boxes by class, stacked by who agreed on them; a lone teacher keeps its own colour."""
    sources = list(dict.fromkeys(source for by_source in counts.values() for source in by_source))
    sources.sort(key=lambda source: source == "ignored")
    if not sources:
        return None
    figure = Figure(figsize=(11, 1.0 + 0.27 * len(counts)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(counts))
    agreed = itertools.cycle(_AGREED)
    for source in sources:
        values = np.array([by_source.get(source, 0) for by_source in counts.values()], float)
        color = "#d8dce2" if source == "ignored" else colors.get(source) or next(agreed)
        axes.barh(range(len(counts)), values, 0.72, left=left, color=color, label=source)
        left += values
    for place, (end, by_source) in enumerate(zip(left, counts.values(), strict=True)):
        taught = sum(by_source.values()) - by_source.get("ignored", 0)
        axes.annotate(
            f"{taught:,}", (end, place), (4, 0), textcoords="offset points", va="center", color=FAINT
        )
    axes.set_yticks(range(len(counts)), short(list(counts)))
    axes.set_ylim(len(counts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("boxes")
    axes.grid(axis="x")
    legend(figure, axes)
    return figure


@as_svg
def score_histograms(histograms: Sequence[ScoreHistogram]) -> Figure | None:
    """Scores of all boxes by teacher: thresholds act on fused scores, not on these."""
    shown = [histogram for histogram in histograms if any(histogram.counts)]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(11, 2.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, histogram in zip(grid.flat, shown, strict=False):
        _histogram(axes, histogram)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    return figure


def _histogram(axes: Axes, histogram: ScoreHistogram) -> None:
    edges = np.array(histogram.edges)
    axes.bar(edges[:-1], histogram.counts, np.diff(edges), align="edge", color=KEPT, lw=0.4, ec="w")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, 1)
    axes.set_title(histogram.teacher)
    axes.set_xlabel("score")
    axes.set_ylabel("detections (log)")
    axes.grid(axis="y")


@as_svg
def training(points: Sequence[TrainingPoint]) -> Figure | None:
    """Loss and learning rate over the epochs."""
    if not points:
        return None
    epochs = [point.epoch for point in points]
    panels = (
        ("loss", [point.loss for point in points], ACCENT),
        ("learning rate", [point.lr for point in points], "#e8a33d"),
    )
    figure = Figure(figsize=(11, 2.5), layout="constrained")
    for axes, (title, values, color) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.plot(epochs, values, color=color, lw=2, marker="o" if len(epochs) < 40 else None, ms=3)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid()
    return figure
