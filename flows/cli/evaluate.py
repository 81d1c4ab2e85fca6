"""``detcompose evaluate``: several detectors side by side on an annotated image set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json, print_results, print_table
from tasks.home import Home

if TYPE_CHECKING:
    from tasks.comparison import Row


def evaluate(
    detectors: Annotated[
        list[str], typer.Argument(help="Names of detectors or of finished compositions, or paths of bundles.")
    ],
    images: Annotated[Path, typer.Option(help="COCO file with labels, or a YOLO or VOC data set.")],
    root: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Also measure time and size.")] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for --speed; 0 = all cores.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure detectors side by side, each on the classes that it shares with the image set.

    The first is compared with each of the others on the classes that both know.
    """
    from tasks import evaluate as evaluation
    from tasks import teachers
    from tasks.comparison import Row

    home = Home.default()
    found = [teachers.find_student(home, name) for name in detectors]
    dataset = evaluation.load_dataset(images, root, limit)
    rows = [
        Row(one.name, "detector", "own", evaluation.examine_detector(home.store, one, dataset))
        for one in found
    ]
    documents = [row.to_dict() for row in rows]
    if speed:
        from tasks.benchmark_speed import load_cost, measure_cost

        for detector, document in zip(found, documents, strict=True):
            cost = load_cost(measure_cost(home.store, detector, dataset, threads=threads))
            document["cost"] = cost.to_dict()
    changes = _differences(rows)
    if as_json:
        print_json({"rows": documents, "differences": changes})
        return
    print_results(images.name, documents)
    _print_differences(changes)
    if speed:
        _print_costs(documents)


def _differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The first detector minus each of the others, on their common categories."""
    from composition.evaluation import paired_difference

    first, *others = rows
    ours = first.outcome.measured.tally
    result = []
    for other in others:
        theirs = other.outcome.measured.tally
        common = [name for name in ours.classes if name in theirs.classes]
        if common:
            change = paired_difference(ours, theirs).to_dict()
            result.append({"first": first.name, "second": other.name, "classes": len(common), **change})
    return result


def _print_differences(changes: Sequence[dict[str, Any]]) -> None:
    rows = []
    for change in changes:
        value = change["AP"]
        if value is None:  # no objects of the common classes
            continue
        interval = f"{value['low']:+.1f} to {value['high']:+.1f}"
        cells = [f"{value['value']:+.1f}", interval, f"{value['p']:.3f}"]
        rows.append([f"{change['first']} - {change['second']}", str(change["classes"]), *cells])
    if rows:
        columns = ("difference", "common classes", "AP", "95 % interval", "p")
        print_table("Differences on the same images", columns, rows)


def _print_costs(documents: Sequence[dict[str, Any]]) -> None:
    rows = []
    for document in documents:
        cost, size = document["cost"], document["cost"]["profile"]
        speeds = [
            f"{one['median']:.1f} ({one['low']:.1f} to {one['high']:.1f})"
            for one in (cost["single"], cost["batched"])
        ]
        counts = [
            "-" if size[key] is None else f"{size[key] / unit:.2f}"
            for key, unit in (("parameters", 1e6), ("flops", 1e9), ("bytes", 1e6))
        ]
        rows.append([document["name"], *speeds, *counts])
    columns = ("detector", "ms, 1 a call", "ms, 8 a call", "M parameters", "GFLOPs", "MB")
    print_table("Cost: milliseconds an image, median (quartiles)", columns, rows)
    cost = documents[0]["cost"]
    console.print(
        f"{cost['threads']} threads, {cost['device']}: {cost['machine']}", markup=False, highlight=False
    )
