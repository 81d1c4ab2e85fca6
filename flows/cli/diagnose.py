"""``detcompose diagnose``: what teachers would teach on a pool of images, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composition.errors import UserError
from flows.cli.ensemble import Calibrate
from flows.cli.output import JsonOption, print_json, print_table
from tasks.home import Home

if TYPE_CHECKING:
    from composition.diagnostics import ClassDiagnosis, Diagnosis
    from composition.filtering import Rule
    from composition.fusion import Fuser
    from composition.label_space import LabelSpace
    from tasks.image_index import ImageList
    from tasks.method_settings import Calibration
    from tasks.teachers import Teacher


_SHOWN = 25


def diagnose(
    teacher: Annotated[
        list[str], typer.Option("--teacher", "-t", help="A teacher's name or bundle; repeat it.")
    ],
    images: Annotated[Path, typer.Option(help="The pool: a folder of images or a COCO file.")],
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Hold the pseudo-labels against the labels of the COCO file.")
    ] = False,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="COCO file with a few labelled images to calibrate on.")
    ] = None,
    calibrate_images: Annotated[int, typer.Option(min=1, help="How many of them to use.")] = 100,
    calibrate: Annotated[
        Calibrate | None,
        typer.Option(
            help="Without --calibrate-on: label-free lets every teacher look at up to 500 images twice; none "
            "takes scores as they are. Default: label-free.",
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Fused score from which a box is a label, for every class. Default: chosen class by class "
            "as compose does.",
        ),
    ] = None,
    ignore: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Fused score from which it is an ignore region; only with --keep."),
    ] = None,
    label_space: Annotated[
        Path | None, typer.Option(help="A label space file; default: from the names.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the data (JSON) and the plots (PNG).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show, before any training, what teachers would teach on a pool of images."""
    from composition.fusion.expert import Expert
    from flows.plan import make_label_space
    from flows.recipe import LabelSpaceSettings
    from tasks import ensemble, teachers
    from tasks.diagnose import diagnose_pool, write_diagnosis
    from tasks.evaluate import load_dataset
    from tasks.image_index import ImageList, list_images

    if calibrate_on and calibrate:
        raise UserError(
            f"--calibrate {calibrate} and --calibrate-on contradict each other", "Give one of the two."
        )
    if ignore is not None and keep is None:
        raise UserError("--ignore needs --keep", "Give both, or neither.")
    home = Home.default()
    found = [teachers.find(home, name) for name in teacher]
    space = make_label_space(LabelSpaceSettings(file=label_space), found)
    data = load_dataset(images, limit=limit) if labelled else list_images(images, limit=limit)
    fusing: Fuser = Expert()
    method: Calibration = "labels" if calibrate_on else calibrate.value if calibrate else "label-free"
    if calibrate_on:
        few = load_dataset(calibrate_on)
        fusing = ensemble.calibrated_expert(home.store, found, space, few, calibrate_images)
    elif method == "label-free":
        fusing = _label_free(home, found, space, data if isinstance(data, ImageList) else data.listing)
    diagnosis = diagnose_pool(
        home.store,
        found,
        space,
        data,
        fusing,
        _rule(keep, ignore, method, fusing),
        calibrated=method != "none",
    )
    files = write_diagnosis(out, diagnosis) if out else []
    if as_json:
        print_json({**diagnosis.to_dict(), "files": [str(file) for file in files]})
        return
    print_diagnosis(diagnosis)
    for file in files:
        typer.echo(str(file))


def _label_free(home: Home, found: list[Teacher], space: LabelSpace, images: ImageList) -> Fuser:
    """The fuser that a composition on the same pool would learn without labels."""
    from composition.fusion import Expert
    from tasks.calibrate import calibrate_fuser, load_fuser
    from tasks.image_index import build_index
    from tasks.infer import GenerateSettings, run_teachers

    generate = GenerateSettings()
    index = build_index(home.store, images)
    shards = run_teachers(home.store, found, index, generate)
    return load_fuser(
        calibrate_fuser(
            home.store,
            found,
            index,
            shards,
            space,
            Expert(),
            "label-free",
            dataset=None,
            images=0,
            floor=generate.score_floor,
            generate=generate,
        )
    )


def _rule(keep: float | None, ignore: float | None, method: Calibration, fusing: Fuser) -> Rule:
    from composition.filtering import Fixed
    from tasks.method_settings import FilterSettings
    from tasks.thresholds import score_exponent, threshold_rule

    if keep is not None:
        return Fixed(keep, keep if ignore is None else ignore)
    settings = FilterSettings()
    # the labels calibrate, but do not choose thresholds here
    return threshold_rule(settings, settings.chosen(False, method), score_exponent(fusing))


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """The tables of a diagnosis, and its warnings."""
    from composition.diagnostics import warnings

    print_table(
        f"Teachers on {diagnosis.images:,} images",
        ("teacher", "boxes", "confident", "confirmed %", "images like its own"),
        [
            [
                name,
                f"{int(diagnosis.raw[t].sum()):,}",
                f"{sum(one.confident.get(name, 0) for one in diagnosis.classes):,}",
                _percent(diagnosis.confirmed[name]),
                diagnosis.domain[name].verdict if name in diagnosis.domain else "no reference",
            ]
            for t, name in enumerate(diagnosis.teachers)
        ],
    )
    shown = sorted((one for one in diagnosis.classes if one.fused), key=lambda one: -one.positives)
    measured = diagnosis.quality is not None
    columns = ["class", "labels", "ignored", "agree %", "expect %"]
    hidden = len(shown) - _SHOWN
    print_table(
        "Classes" if hidden <= 0 else f"The {_SHOWN} classes with most labels; {hidden} more with --json",
        [*columns, *(("true %", "prec %", "recall %", "AP") if measured else ())],
        [_row(one, measured=measured) for one in shown[:_SHOWN]],
    )
    for line in warnings(diagnosis):
        typer.echo(f"! {line}")


def _row(one: ClassDiagnosis, *, measured: bool) -> list[str]:
    quality = one.quality
    figures = (
        [
            _percent(quality.mean_quality if quality else None),
            _percent(quality.precision if quality else None),
            _percent(quality.recall if quality else None),
            f"{quality.ap:.1f}" if quality and quality.ap is not None else "-",
        ]
        if measured
        else []
    )
    return [
        one.name,
        f"{one.positives:,}",
        f"{one.ignored:,}",
        _percent(one.confirmed),
        _percent(one.expected_precision),
        *figures,
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"
