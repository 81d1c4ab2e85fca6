"""``detcompose label``: the labelled data set alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.compose import input_rows, print_sight
from flows.cli.output import JsonOption, console, print_json, print_table, show_log
from flows.environment import make_home
from flows.services.temporary import start_temporary_server
from tasks.export_form import Form
from tasks.home import Home


class Images(StrEnum):
    """What an export does with the image files."""

    LINK = "link"
    COPY = "copy"
    NONE = "none"


FormOption = Annotated[Form, typer.Option("--format", help="Format of the export.")]
ImagesOption = Annotated[
    Images, typer.Option(help="Put links to the image files into the export, copies of them, or nothing.")
]


def label(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML); its student is not looked at.")],
    form: FormOption = Form.COCO,
    to: Annotated[
        Path | None, typer.Option(help="Folder of the export. Default: the labels stay in the store.")
    ] = None,
    images: ImagesOption = Images.LINK,
    detections: Annotated[
        bool, typer.Option("--detections", help="Also export what every teacher found, before fusion.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Label the images of a recipe and stop: `compose` later goes on from there."""
    make_home()
    ready = None if dry_run else start_temporary_server()
    from flows.recipe import load_recipe

    loaded = load_recipe(recipe)
    if ready is None:
        from flows.estimate import estimate_labels
        from flows.plan import make_label_plan

        home = Home.default()
        plan = make_label_plan(loaded, home, limit)
        document = {**plan.to_dict(), "estimate": estimate_labels(home, plan)}
        print_json(document) if as_json else _print_plan(document)
        return
    show_log()
    from flows.label import label as label_flow

    target = to and to.absolute()
    ready()
    record = label_flow(loaded, limit, form.value, target, images.value, detections)
    print_json(record) if as_json else _print(record)


def _print_plan(plan: dict[str, Any]) -> None:
    print_sight(plan)
    time = plan["estimate"]
    settings = [
        *input_rows(plan),
        *[[f"{name} has not seen", f"{count:,} images"] for name, count in time["missing"].items()],
        ["labelling", plan["labelling"]],
        *[[f"estimated {name}", text] for name, text in time["text"].items()],
    ]
    print_table(f"Labels of {plan['name']}", ("", "value"), settings)
    console.print("Nothing was run. Leave out --dry-run to run it.")


def _print(record: dict[str, Any]) -> None:
    from flows.cli.diagnose import print_diagnosis
    from tasks.diagnosis import load_diagnosis
    from tasks.store import Artifact

    folder = Path(record["diagnosis"])
    print_diagnosis(load_diagnosis(Artifact("diagnosis", str(folder), folder.name, {})))
    print_exports(record["exports"])
    console.print(f"labels   {record['labels']}", soft_wrap=True, highlight=False, markup=False)


def print_exports(exports: dict[str, Any]) -> None:
    """What was written, and what the format could not hold."""
    if not exports:
        return
    keys = ("images", "labels", "ignore_regions", "left_out")
    rows = [[name, *(f"{one[key]:,}" for key in keys)] for name, one in exports.items()]
    columns = ("exported", "images", "labels", "ignore regions", "regions left out")
    print_table("Exports", columns, rows)
    for one in exports.values():
        console.print(f"export   {one['folder']}", soft_wrap=True, highlight=False, markup=False)
