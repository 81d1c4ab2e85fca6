"""``detcompose pull``: a detector from the registry into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, print_json
from flows.environment import configure


def pull(
    reference: Annotated[
        str,
        typer.Argument(help="E.g. students/traffic@champion or students/traffic@3; without @: champion."),
    ],
    to: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    as_trained: Annotated[
        bool,
        typer.Option("--as-trained", help="The bundle as it was trained, not its ONNX file."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a detector from the registry, verified; `detcompose predict FOLDER` runs it."""
    home = configure()
    from tasks.pull import pull as pull_bundle

    done = pull_bundle(home, reference, to, as_trained=as_trained)
    if as_json:
        print_json(
            {
                "folder": str(done.folder),
                "model": done.model,
                "adapter": done.manifest.adapter,
                "classes": list(done.manifest.vocabulary),
                "digest": done.manifest.digest,
                "unchanged": done.unchanged,
            }
        )
        return
    state = "is up to date in" if done.unchanged else "->"
    manifest = done.manifest
    facts = f"{manifest.adapter}, {len(manifest.vocabulary)} classes, digest {manifest.digest[:12]}"
    typer.echo(f"{done.model} {state} {done.folder}: {facts}")
