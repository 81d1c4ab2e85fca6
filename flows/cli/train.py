"""``detcompose train``: supervised training of a teacher or a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, print_json, show_log
from flows.environment import make_home


def train(
    name: Annotated[str, typer.Option(help="Name by which the detector is addressed afterwards.")],
    images: Annotated[Path, typer.Option(help="COCO file with labels.")],
    root: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes to learn, separated with commas; default: all.")
    ] = None,
    part: Annotated[
        str, typer.Option(help="k/n: learn only from the k-th of n disjoint random parts of the images.")
    ] = "1/1",
    architecture: Annotated[str, typer.Option(help="Student architecture.")] = "yolox_nano",
    image_size: Annotated[int, typer.Option(help="Side of the network input in pixels.")] = 416,
    epochs: Annotated[int, typer.Option(help="How often every image is shown.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per optimiser step.")] = 8,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    warm_start: Annotated[str, typer.Option(help="none, imagenet or bundle:<teacher>.")] = "none",
    augmentation: Annotated[str, typer.Option(help="none, light or standard.")] = "standard",
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a detector on labels, and add it as a teacher under its name."""
    make_home()
    from pydantic import ValidationError

    from model_zoo.student_settings import StudentSettings
    from tasks.annotations import parse_part

    values: dict[str, Any] = {
        "architecture": architecture,
        "image_size": image_size,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warm_start": warm_start,
        "augmentation": augmentation,
        "flip": flip,
    }
    try:
        settings = StudentSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UserError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None
    chosen = [part_.strip() for part_ in classes.split(",")] if classes else None
    show_log()
    from flows.train import train as train_flow

    result = train_flow(name, images, settings, root, chosen, parse_part(part), seed)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"detector {name}, digest {result['digest'][:12]}: {result['bundle']}")
