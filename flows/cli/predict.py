"""``detcompose predict``: a detector on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, print_json
from tasks.home import Home


def predict(
    detector: Annotated[
        str, typer.Argument(help="Name of a detector or of a finished composition, or a bundle's path.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    out: Annotated[Path | None, typer.Option(help="Folder for pictures with the boxes drawn in.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score shown.")] = 0.3,
    as_json: JsonOption = False,
) -> None:
    """Detect objects in pictures: boxes as JSON, and drawn into copies."""
    from tasks.predict import predict_files

    if out is None and not as_json:
        raise UserError("predict: nothing to produce", "Give --out FOLDER for pictures, or --json for boxes.")
    results: list[dict[str, Any]] = predict_files(Home.default(), detector, images, threshold, out)
    if as_json:
        print_json(results)
        return
    for result in results:
        if "error" in result:
            typer.echo(f"{result['image']}: left out: {result['error']}", err=True)
        else:
            found = len(result["detections"])
            typer.echo(f"{result['image']}: {found} objects -> {result['picture']}")
