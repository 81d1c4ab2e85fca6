"""``detcompose finetune``: a student and a few labels in, a better student out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, console, percent, print_json, print_table, show_log
from flows.environment import make_home
from flows.services.temporary import start_temporary_server
from model_zoo.mmdet_runtime import import_mmdet


def finetune(
    student: Annotated[
        str, typer.Argument(help="Name of a composition or of an added detector, or the folder of a bundle.")
    ],
    labels: Annotated[Path, typer.Option(help="Labels of people: a COCO file, or a YOLO or VOC data set.")],
    name: Annotated[str, typer.Option(help="Name by which the result is addressed afterwards.")],
    root: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Use only so many of its images.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Use only this part of its images.")] = None,
    subset_seed: Annotated[int, typer.Option(help="Which images these are; fewer are a part of more.")] = 0,
    classes: Annotated[
        str | None,
        typer.Option(help="Classes that the labels are complete for, separated with commas; default: all."),
    ] = None,
    pseudo_labels: Annotated[
        Path | None,
        typer.Option(help="COCO file with pseudo-labels for all else; default: those of the composition."),
    ] = None,
    pool_root: Annotated[Path | None, typer.Option(help="Folder of the images of --pseudo-labels.")] = None,
    keep_pseudo_labels: Annotated[
        bool,
        typer.Option(
            "--keep-pseudo-labels/--no-pseudo-labels",
            help="Learn from pseudo-labels, too, where people say nothing.",
        ),
    ] = True,
    evaluate: Annotated[
        list[Path] | None, typer.Option(help="COCO file to measure on before and after; repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps, rounded up to whole epochs.")] = 300,
    human_share: Annotated[
        float | None,
        typer.Option(
            help="Part of the images shown that people have labelled; default: a half, less for few images."
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per optimiser step.")] = 8,
    architecture: Annotated[
        str | None, typer.Option(help="For a detector that detcompose has not trained.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network input in pixels.")] = None,
    augmentation: Annotated[str, typer.Option(help="none, light or standard.")] = "light",
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images; default: as before.")
    ] = None,
    norm: Annotated[str, typer.Option(help="Batch norms: trained, or frozen as they are.")] = "trained",
    weights: Annotated[
        str, typer.Option(help="soft: pseudo-labels count as much as they are sure; hard: all the same.")
    ] = "soft",
    ignore: Annotated[
        bool, typer.Option("--ignore/--no-ignore", help="Ignore regions teach no absence.")
    ] = True,
    class_mask: Annotated[
        bool,
        typer.Option("--class-mask/--no-class-mask", help="Classes that nobody looked for teach no absence."),
    ] = True,
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes.")] = None,
    processes: Annotated[int, typer.Option(help="Training processes, one on each GPU.")] = 1,
    amp: Annotated[bool, typer.Option("--amp/--no-amp", help="Mixed precision on GPUs that have it.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a student further on few labels of people, and measure what it gained and forgot."""
    make_home()
    ready = start_temporary_server()
    from flows.cli.chosen import checked, names_in
    from flows.recipe import EvaluationSettings
    from model_zoo.finetuning import FinetuneSettings

    values: dict[str, Any] = {
        "steps": steps,
        "human_share": human_share,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "architecture": architecture,
        "image_size": image_size,
        "augmentation": augmentation,
        "flip": flip,
        "norm": norm,
        "weights": weights,
        "ignore": ignore,
        "class_mask": class_mask,
        "budget_minutes": budget_minutes,
        "processes": processes,
        "amp": amp,
    }
    settings = checked(FinetuneSettings, values)
    sets = [
        EvaluationSettings(name=title, annotations=path) for title, path in _named(evaluate or []).items()
    ]
    show_log()
    from flows.finetune import finetune as finetune_flow

    import_mmdet()  # seconds, which the server takes as well
    ready()
    record = finetune_flow(
        name=name,
        student=student,
        labels=labels,
        root=root,
        count=count,
        fraction=fraction,
        subset_seed=subset_seed,
        classes=names_in(classes),
        pseudo_labels=pseudo_labels,
        pool_root=pool_root,
        keep_pseudo_labels=keep_pseudo_labels,
        settings=settings,
        evaluate=sets,
        seed=seed,
    )
    print_json(record) if as_json else print_record(record)


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Short names of evaluation files: the file's, with a number where it is taken."""
    names: dict[str, Path] = {}
    for path in files:
        stem = (
            "".join(letter if letter.isalnum() else "-" for letter in path.stem.lower()).strip("-") or "set"
        )
        names[stem if stem not in names else f"{stem}-{len(names) + 1}"] = path
    return names


def print_record(record: Mapping[str, Any]) -> None:
    """What was gained and forgotten, class by class."""
    for name, result in record["evaluations"].items():
        rows = [_row(f"all {result['classes']} classes", "", result["AP"])]
        if result["labelled"] and result["others"]:
            rows.append(
                _row(f"the {result['labelled']['classes']} labelled by people", "", result["labelled"])
            )
            rows.append(_row(f"the {result['others']['classes']} others", "", result["others"]))
        rows += [
            _row(title, "people" if values["labelled"] else "detectors", values)
            for title, values in result["per_class"].items()
            if values["boxes"]
        ]
        columns = ("class", "labelled by", "before", "after", "change", "95 % interval")
        print_table(f"Fine-tuning on {name}: AP (COCO, %)", columns, rows)
    if record.get("unchanged"):
        console.print("Nothing has changed since this fine-tuning was finished: no work was done.")
    counts = record["labels"]
    labels = (
        f"{counts['human_boxes']} boxes of people on {counts['human_images']} images, each shown "
        f"{counts['repeat']} times an epoch; "
        f"{counts['pseudo_boxes']} pseudo-labels; {counts['images']} images in all"
    )
    console.print(
        f"labels   {labels}\nstudent  {record['bundle']}\nmodel    {record['model']}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _row(title: str, labelled_by: str, values: Mapping[str, Any]) -> list[str]:
    change = values["change"]
    shown = (
        ["-", "-"]
        if change is None
        else [f"{change['value']:+.1f}", f"{change['low']:+.1f} to {change['high']:+.1f}"]
    )
    return [title, labelled_by, percent(values["before"]), percent(values["after"]), *shown]
