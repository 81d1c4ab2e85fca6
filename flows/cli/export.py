"""``detcompose export``: a student as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, print_json
from tasks.home import Home


def export(
    student: Annotated[
        str, typer.Argument(help="Name of a finished composition or of a detector, or a bundle's path.")
    ],
    to: Annotated[Path, typer.Option(help="The file to write; ends in .onnx.")],
    score_floor: Annotated[
        float, typer.Option(min=0, max=1, help="Detections at or below it do not leave the network.")
    ] = 0.01,
    max_detections: Annotated[int, typer.Option(min=1, help="At most so many detections an image.")] = 300,
    as_json: JsonOption = False,
) -> None:
    """Write a student as an ONNX file with everything inside: class names, preprocessing, suppression."""
    from model_zoo.exporting import export_onnx
    from tasks.teachers import find_student

    found = find_student(Home.default(), student)
    done = export_onnx(found.folder, to, score_floor=score_floor, max_detections=max_detections)
    spec = done.description.input
    if as_json:
        print_json(
            {
                "file": str(done.path),
                "sha256": done.sha256,
                "bytes": done.bytes,
                "difference": done.difference,
                "description": done.description.model_dump(mode="json"),
            }
        )
        return
    typer.echo(
        f"{done.path}: {done.bytes / 1e6:.1f} MB, {len(done.description.vocabulary)} classes, "
        f"{spec.width}x{spec.height} RGB; scores differ from torch's by at most {done.difference:.1g}\n"
        f"it comes back with: detcompose teacher add {done.path} --name NAME"
    )
