"""Detectors side by side, as a deployed flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.deployments.run import explained, run_name
from tasks import teachers
from tasks.comparison import Row
from tasks.evaluate import examine_detector, load_dataset
from tasks.shown import show_results
from tasks.step import step

examine = step(examine_detector, "evaluate", run_name="evaluate {detector.name}")


@flow(name="evaluate", flow_run_name=run_name, persist_result=False)
def evaluate(
    detectors: Annotated[list[str], Field(min_length=1, examples=[["yolox-coco", "traffic"]])],
    images: Path,
    root: str = "",
    limit: Annotated[int, Field(ge=0)] = 0,
) -> list[dict[str, Any]]:
    """Detectors are measured side by side, each on the classes that it shares with the image set.

    Args:
        detectors: Names of teachers, bundle folders, or names of compositions (their students).
        images: COCO JSON file with labels.
        root: Folder of its images. Empty: images/ beside the file, or its own folder.
        limit: Use only the first so many images. 0: all.
    """
    with explained() as home:
        found = [teachers.find_student(home, name) for name in detectors]
        dataset = load_dataset(images, Path(root) if root else None, limit or None)
        rows = [
            Row(one.name, "detector", "own", examine(home.store, one, dataset)).to_dict() for one in found
        ]
        show_results(images.stem, rows)
        return rows
