"""``detcompose promote``: a challenger becomes the champion, or does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json, print_table
from flows.environment import make_home


def promote(
    student: Annotated[
        str, typer.Argument(help="E.g. students/traffic or students/traffic@4; without @: the challenger.")
    ],
    on: Annotated[Path, typer.Option(help="COCO file with labels, of images that neither has learned from.")],
    root: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    margin: Annotated[
        float,
        typer.Option(min=0, help="Points of mean AP that may be lost, at the interval's lower end."),
    ] = 2.0,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever is measured.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is forced; recorded at the version.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a student with the champion, class by class, and make it the champion if it is not worse."""
    make_home()
    from flows.promote import promote as promote_flow
    from tasks.promotion import PromotionRefusedError

    # measured in seconds or minutes and recorded in MLflow: no server of Prefect's around it
    try:
        done = promote_flow.fn(student, on, root, margin, force, reason)
    except PromotionRefusedError as refusal:
        document = {**refusal.verdict.to_dict(), "promoted": False, "forced": None}
        print_json(document) if as_json else print_verdict(document)
        raise
    if as_json:
        print_json(done)
        return
    print_verdict(done)
    typer.echo(f"{done['challenger']} is the champion now" + (" (forced)" if force else ""))


def print_verdict(verdict: Mapping[str, Any]) -> None:
    """The comparison as a table."""
    if verdict["champion"] is None:
        console.print("There is no champion to compare with.", markup=False)
        return
    rows = [[name, *_change(row), row["verdict"]] for name, row in verdict["per_class"].items()]
    if verdict["AP"]:
        rows.append(["all", *_change(verdict["AP"]), "95 % interval"])
    print_table(
        f"{verdict['challenger']} minus {verdict['champion']} on {verdict['images']} images of "
        f"{verdict['source']}",
        ("class", "AP", "interval", ""),
        rows,
    )
    if verdict["unmeasured"]:
        console.print(
            f"Not measured, no objects: {', '.join(verdict['unmeasured'])}", markup=False, highlight=False
        )


def _change(change: Mapping[str, Any]) -> list[str]:
    return [f"{change['value']:+.1f}", f"{change['low']:+.1f} to {change['high']:+.1f}"]
