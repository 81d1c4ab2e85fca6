"""``detcompose train``: supervised training of a teacher or a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, print_json, show_log
from flows.environment import make_home
from flows.services.temporary import start_temporary_server
from model_zoo.mmdet_runtime import import_mmdet


def train(
    name: Annotated[str, typer.Option(help="Name by which the detector is addressed afterwards.")],
    images: Annotated[Path, typer.Option(help="COCO file with labels, or a YOLO or VOC data set.")],
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
    mixup: Annotated[float, typer.Option(help="Part of the images with another one laid over it.")] = 0.0,
    close_mosaic_epochs: Annotated[int, typer.Option(help="Last epochs, without mosaics and mixing.")] = 5,
    warmup_fraction: Annotated[
        float, typer.Option(help="Part of the steps over which the learning rate rises.")
    ] = 0.05,
    ema: Annotated[bool, typer.Option(help="Keep the moving average of the weights.")] = True,
    norm: Annotated[str, typer.Option(help="Batch norms: trained, or frozen as they start.")] = "trained",
    weights: Annotated[
        str, typer.Option(help="soft: boxes count as much as their labels are sure; hard: all the same.")
    ] = "soft",
    ignore: Annotated[bool, typer.Option(help="Ignore regions teach no absence.")] = True,
    class_mask: Annotated[bool, typer.Option(help="Classes that nobody looked for teach no absence.")] = True,
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes.")] = None,
    processes: Annotated[int, typer.Option(help="Training processes, one on each GPU.")] = 1,
    amp: Annotated[bool, typer.Option(help="Mixed precision on GPUs that have it.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a detector on labels, and add it as a teacher under its name."""
    make_home()
    ready = start_temporary_server()
    from flows.cli.chosen import checked, names_in
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
        "mixup": mixup,
        "close_mosaic_epochs": close_mosaic_epochs,
        "warmup_fraction": warmup_fraction,
        "ema": ema,
        "norm": norm,
        "weights": weights,
        "ignore": ignore,
        "class_mask": class_mask,
        "budget_minutes": budget_minutes,
        "processes": processes,
        "amp": amp,
    }
    settings = checked(StudentSettings, values)
    show_log()
    from flows.train import train as train_flow

    import_mmdet()  # seconds, which the server takes as well
    ready()
    result = train_flow(name, images, settings, root, names_in(classes), parse_part(part), seed)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"detector {name}, digest {result['digest'][:12]}: {result['bundle']}")
