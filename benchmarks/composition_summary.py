"""Table, differences and plot of the composition experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from composition.evaluation.bootstrap import draws
from composition.evaluation.tally import Tally, average_precision

if TYPE_CHECKING:
    from benchmarks.composition import Experiment

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 1000
COMPARED = (
    ("ours", "supervised"),
    ("ours", "naive"),
    ("ours", "wbf"),
    ("ours", "teacher"),
    ("ours_looks", "ours"),
    ("ours_looks", "supervised"),
    ("ours_looks", "teacher"),
    ("oracle_classes", "ours"),
    ("supervised", "oracle_classes"),
    ("supervised_long", "supervised"),
    *(("ours", f"ours_no_{part}") for part in ("calibration", "ignore", "class_mask", "weights", "trial")),
    ("supervised", "teacher"),
    *((f"finetune_{n}", f"supervised_{n}") for n in (1, 5, 10)),
    *((f"finetune_{n}", f"supervised_warm_{n}") for n in (1, 5, 10)),
    *((f"finetune_{n}", "ours") for n in (1, 5, 10)),
)
"""First row minus second."""
PAPER = {"finetune_1": 18.6, "finetune_5": 12.6, "finetune_10": 8.1}
"""Gains over supervised training with as many labels in the paper (its abstract)."""


def by_row(results: Sequence[Mapping[str, Any]], dataset: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Row to seed to result of a data set."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in results:
        if entry["dataset"] == dataset:
            found.setdefault(entry["row"], {})[entry["seed"]] = entry
    return found


def mean_ap(tally: Tally, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R,) mAP in percent of every sample of the images."""
    areas: NDArray[np.float64] = np.nanmean(average_precision(tally, weights).mean(axis=2), axis=1) * 100
    return areas


def difference(
    first: Sequence[Tally], second: Sequence[Tally], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over the trainings of one row minus that of another, with its 95 % interval.

    Images are drawn with replacement, the same for all; so the interval covers the choice of the
    images, and of the trainings only that their mean is taken.

    Args:
        first: One tally for each training.
        second: The same of the other row.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        Difference, lower and upper end, in points.
    """
    images = len(first[0].images)
    weights = np.concatenate([np.ones((1, images), np.int64), draws(images, resamples, seed)])
    one, other = (
        np.mean([mean_ap(tally, weights) for tally in tallies], axis=0) for tallies in (first, second)
    )
    change = one - other
    low, high = np.quantile(change[1:], [0.025, 0.975])
    return float(change[0]), float(low), float(high)


def write_summary(results: Sequence[Mapping[str, Any]], experiments: Mapping[str, Experiment]) -> None:
    """Writes ``composition.md`` and ``composition.png``."""
    parts = [
        "# The experiment: one student without labels, against labels and against its teachers\n",
        "`python -m benchmarks.composition`, then `--summary`. COCO mAP on `val.json` in percent: mean over "
        "the seeds, and their standard deviation. Differences with the 95 % interval of 1,000 paired "
        "draws of the images. Seconds are those of the run that wrote the row: what the store held already "
        "cost nothing.\n",
    ]
    for dataset, experiment in experiments.items():
        rows = by_row(results, dataset)
        if rows:
            parts.append(_section(dataset, rows, experiment))
    (RESULTS / "composition.md").write_text("\n".join(parts))
    plot({name: by_row(results, name) for name in experiments}, RESULTS / "composition.png")


def _section(
    dataset: str, rows: Mapping[str, Mapping[int, Mapping[str, Any]]], experiment: Experiment
) -> str:
    lines = [
        f"## {dataset}\n",
        "| row | seeds | mAP | AP50 | of supervised | seconds |",
        "|---|---|---|---|---|---|",
    ]
    reference = _mean(rows["supervised"], "mAP") if "supervised" in rows else None
    for row in [row for row, seed in experiment.case.plan() if seed == 0 and row in rows]:
        values = [entry["mAP"] for entry in rows[row].values()]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        share = f"{100 * np.mean(values) / reference:.1f} %" if reference else ""
        lines.append(
            f"| {row} | {len(values)} | {np.mean(values):.1f}{spread} | {_mean(rows[row], 'AP50'):.1f} "
            f"| {share} | {_mean(rows[row], 'seconds'):.0f} |"
        )
    lines += ["", "| difference | mAP | 95 % interval | |", "|---|---|---|---|"]
    for first, second in COMPARED:
        if first in rows and second in rows:
            seeds = sorted(rows[first].keys() & rows[second].keys()) or [0]
            tallies = [
                [_tally(experiment, rows[row].get(seed, rows[row][min(rows[row])])) for seed in seeds]
                for row in (first, second)
            ]
            change, low, high = difference(*tallies)
            against = PAPER.get(first) if second.startswith("supervised_") and "warm" not in second else None
            note = f"paper {against:+.1f}" if against else ""
            lines.append(f"| {first} - {second} | {change:+.1f} | {low:+.1f} to {high:+.1f} | {note} |")
    return "\n".join(lines) + "\n"


def _tally(experiment: Experiment, entry: Mapping[str, Any]) -> Tally:
    bundle = experiment.home.root / entry["bundle"] if entry["bundle"] else None
    tally: Tally = experiment.outcome(bundle).measured.tally
    return tally


def _mean(entries: Mapping[int, Mapping[str, Any]], key: str) -> float:
    return float(np.mean([entry[key] for entry in entries.values()]))


def plot(datasets: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]], path: Path) -> None:
    """Dots for the trainings, a bar for their mean: main rows above, few labels below, if there are any."""
    from matplotlib.figure import Figure

    shown = {name: rows for name, rows in datasets.items() if rows}
    few = {
        name for name, rows in shown.items() if any(f"supervised_{percent}" in rows for percent in (1, 5, 10))
    }
    panels = 2 if few else 1
    figure = Figure(figsize=(4.6 * len(shown), 3.75 * panels), layout="constrained")
    axes = figure.subplots(panels, len(shown), squeeze=False)
    for column, (name, rows) in enumerate(shown.items()):
        main = [row for row in ("teacher", "naive", "wbf", "ours", "ours_looks", "supervised") if row in rows]
        upper = axes[0][column]
        for place, row in enumerate(main):
            values = [entry["mAP"] for entry in rows[row].values()]
            upper.bar(
                place, np.mean(values), color="#2a7f9e" if row.startswith("ours") else "#b9c4cc", width=0.7
            )
            upper.plot([place] * len(values), values, "o", color="#222222", markersize=4)
            upper.annotate(
                f"{np.mean(values):.1f}",
                (place, max(values)),
                (0, 5),
                textcoords="offset points",
                ha="center",
            )
        upper.set_xticks(range(len(main)), main)
        upper.set_title(name)
        upper.set_ylabel("mAP on val.json (%)")
        upper.margins(y=0.12)
        if name in few:
            _few(axes[1][column], rows)
        elif few:
            axes[1][column].set_axis_off()
    figure.savefig(path, dpi=110)


def _few(axes: Any, rows: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> None:
    looks = {
        "finetune": ("no labels, then fine-tuned", "#2a7f9e"),
        "supervised_warm": ("labels alone, same start", "#c9822b"),
        "supervised": ("labels alone, from scratch", "#8a8f94"),
    }
    for kind, (label, color) in looks.items():
        known = [n for n in (1, 5, 10) if f"{kind}_{n}" in rows]
        if known:
            axes.plot(
                known, [_mean(rows[f"{kind}_{n}"], "mAP") for n in known], "o-", color=color, label=label
            )
    for row, style in (("ours", "--"), ("supervised", ":")):
        if row in rows:
            name = "no labels" if row == "ours" else "all labels"
            axes.axhline(_mean(rows[row], "mAP"), linestyle=style, color="#222222", linewidth=1, label=name)
    axes.set_xticks([1, 5, 10], ["1 %", "5 %", "10 %"])
    axes.set_xlabel("labels")
    axes.set_ylabel("mAP on val.json (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="best")
