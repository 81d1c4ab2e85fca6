"""Making a challenger the champion, through the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from composition.errors import UserError
from composition.promotion import MARGIN
from tasks.evaluate import load_dataset
from tasks.home import Home
from tasks.promotion import promote_student


@flow(name="promote", flow_run_name="promote {student}", persist_result=False)
def promote(
    student: str,
    on: Path,
    root: Path | None = None,
    margin: float = MARGIN,
    force: bool = False,
    reason: str | None = None,
) -> dict[str, Any]:
    """Makes a student the champion if it is not worse than the one in use.

    Args:
        student: E.g. ``students/traffic``; without an alias or version its challenger.
        on: COCO file with labels, of images that neither has learned from.
        root: Folder of the images; default: images/ beside the file, or its own folder.
        margin: Points of mean AP that may be lost, at the lower end of the 95 % interval.
        force: Promote whatever is measured; needs a reason.
        reason: Why it is forced; recorded at the version.

    Returns:
        What was measured, and that it was promoted.

    Raises:
        UserError: The gate refused it, and why; or something is wrong with the input.
    """
    if force and not (reason or "").strip():
        raise UserError("a forced promotion needs a reason", "Give it with --reason '...'.")
    if margin < 0:
        raise UserError(f"margin is {margin:g}; it cannot be negative", "Give points of AP, e.g. 2.")
    home = Home.default()
    dataset = load_dataset(on, root)
    return promote_student(home, student, dataset, margin=margin, forced=reason if force else None)
