"""``detcompose evaluate``: several detectors side by side on an annotated image set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, print_json, print_results
from tasks.home import Home


def evaluate(
    detectors: Annotated[list[str], typer.Argument(help="Names or bundle paths of detectors.")],
    images: Annotated[Path, typer.Option(help="COCO file with labels.")],
    root: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure detectors side by side, each on the classes that it shares with the image set."""
    from tasks import evaluate as evaluation
    from tasks import teachers

    home = Home.default()
    found = [teachers.find(home, name) for name in detectors]
    dataset = evaluation.load_dataset(images, root, limit)
    rows = []
    for detector in found:
        metrics = evaluation.evaluate_detector(home.store, detector, dataset)
        rows.append(evaluation.Row(detector.name, "detector", "own", metrics).to_dict())
    print_json({"rows": rows}) if as_json else print_results(images.name, rows)
