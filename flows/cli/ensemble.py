"""``detcompose ensemble``: teachers run together on an annotated image set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, percent, print_json, print_table
from tasks.home import Home


class Calibrate(StrEnum):
    """From what the teachers' scores are calibrated when there are no labels for it."""

    label_free = "label-free"
    none = "none"


class Augment(StrEnum):
    """Which further looks at the images the teachers take."""

    auto = "auto"
    all = "all"
    flip = "flip"
    zoom = "zoom"
    none = "none"


class FuserName(StrEnum):
    """How boxes are fused."""

    expert = "expert"
    wbf = "wbf"
    nms = "nms"
    soft_nms = "soft_nms"


def ensemble(
    teacher: Annotated[
        list[str], typer.Option("--teacher", "-t", help="A teacher's name or bundle; repeat it.")
    ],
    images: Annotated[
        Path, typer.Option(help="COCO file with labels, or a YOLO or VOC data set, to measure on.")
    ],
    fuser: Annotated[FuserName, typer.Option(help="How boxes are fused.")] = FuserName.expert,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="COCO file with a few labelled images to calibrate on.")
    ] = None,
    calibrate_images: Annotated[int, typer.Option(min=1, help="How many of them to use.")] = 100,
    calibrate: Annotated[
        Calibrate | None,
        typer.Option(
            help="Without --calibrate-on: label-free lets every teacher look at the images twice and reads "
            "no label; none takes scores as they are. Default for expert: label-free.",
        ),
    ] = None,
    augment: Annotated[
        Augment,
        typer.Option(
            help="Further looks at every image. all: with expert, mirrored and in four enlarged parts, "
            "whichever serves a teacher, at up to six times the time; auto: mirrored where that serves, as "
            "`compose` does; flip: mirrored, for all classes; zoom: enlarged; none: one look.",
        ),
    ] = Augment.all,
    label_space: Annotated[
        Path | None, typer.Option(help="A label space file; default: from the names.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run teachers as an ensemble and measure it beside each of them, on all classes."""
    from composition import fusion
    from flows.plan import make_label_space
    from flows.recipe import LabelSpaceSettings
    from tasks import ensemble as ensembles
    from tasks import teachers
    from tasks.evaluate import load_dataset
    from tasks.image_index import POOL_SAMPLE
    from tasks.infer import GenerateSettings

    if (calibrate_on or calibrate is Calibrate.label_free) and fuser is not FuserName.expert:
        option = "--calibrate-on" if calibrate_on else "--calibrate"
        raise UserError(f"--fuser {fuser} cannot be calibrated", f"Leave out {option}, or use expert.")
    if calibrate_on and calibrate:
        raise UserError(
            f"--calibrate {calibrate} and --calibrate-on contradict each other", "Give one of the two."
        )
    if calibrate_on and calibrate_on.resolve() == images.resolve():
        raise UserError(
            f"--calibrate-on and --images are both {images}", "Measure on images that were not learnt from."
        )
    home = Home.default()
    found = [teachers.find(home, name) for name in teacher]
    space = make_label_space(LabelSpaceSettings(file=label_space), found)
    dataset = load_dataset(images)
    fusing: fusion.Fuser = fusion.fuser(fuser)
    labelled = load_dataset(calibrate_on) if calibrate_on else None
    if GenerateSettings(augment=augment.value).looks_again(fuser):
        tried = (labelled, calibrate_images) if labelled else (dataset, POOL_SAMPLE)
        found = ensembles.with_looks(home.store, found, *tried, augment.value)
    if labelled:
        fusing = ensembles.calibrated_expert(home.store, found, space, labelled, calibrate_images)
    elif fuser is FuserName.expert and calibrate is not Calibrate.none:
        fusing = ensembles.label_free_expert(home.store, found, space, dataset, POOL_SAMPLE)
    result = ensembles.evaluate_ensemble(home.store, found, space, dataset, fusing).to_dict()
    if as_json:
        print_json(result)
        return
    print_table(
        f"Ensemble on {images.name} (COCO, %)",
        ("detector", "AP", "AP50", "AP75"),
        [_row(name, values) for name, values in result["teachers"].items()]
        + [_row(f"ensemble ({fuser})", result)],
    )


def _row(name: str, values: dict[str, Any]) -> list[str]:
    return [name, percent(values["AP"]), percent(values["AP50"]), percent(values["AP75"])]
