"""What a run shows in the Prefect UI beside its log: tables, links, pictures, the way out of a failure.

Nothing is sent unless a person may be looking, which is when the run belongs
to a server of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.settings import PREFECT_API_URL

from composition import label_space as spaces
from composition.errors import UserError
from composition.label_space import LabelSpace
from tasks.home import TEMPORARY_SERVER
from tasks.tracking import Run

CLASSES_SHOWN = 200
"""Rows of a table about classes; the files have them all."""


def watched() -> bool:
    """Whether this run can be looked at: on a server that stays, not on one of this process."""
    in_run = TaskRunContext.get() is not None or FlowRunContext.get() is not None
    return in_run and bool(PREFECT_API_URL.value()) and TEMPORARY_SERVER not in os.environ


def key(*words: str) -> str:
    """An artifact key of words: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def show_failure(error: UserError) -> None:
    """What went wrong and the way out, as a page of the run."""
    if watched():
        text = f"## {error.problem}\n\n**What to do:** {error.way_out}\n"
        create_markdown_artifact(text, key="what-to-do", description="Why the run failed, and the way out.")


def show_results(dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Everybody's figures on one data set: in all, and class by class."""
    if not watched():
        return
    summary = [
        {
            "detector": row["name"],
            "role": row["role"],
            "classes": f"{row['scope']} ({row['classes']})",
            **{name: _percent(row[name]) for name in ("AP", "AP50", "AP75")},
        }
        for row in rows
    ]
    create_table_artifact(summary, key=key("results", dataset), description=f"COCO AP in % on {dataset}.")
    columns = [row for row in rows if row["scope"] == "all"] or list(rows)
    names = list(dict.fromkeys(name for row in columns for name in row["per_class"]))
    per_class = [
        {
            "class": name,
            **{row["name"]: _percent(row["per_class"].get(name, {}).get("AP")) for row in columns},
        }
        for name in names[:CLASSES_SHOWN]
    ]
    create_table_artifact(
        per_class, key=key("results", dataset, "per class"), description=f"AP in % on {dataset}, by class."
    )


def show_label_space(space: LabelSpace) -> None:
    """Which teacher sees which class, and under which of its own names."""
    if not watched():
        return
    relations = spaces.relations(space)
    rows = []
    for name, row in list(zip(space.classes, relations, strict=True))[:CLASSES_SHOWN]:
        cells = {"class": name}
        for teacher, relation in zip(space.teachers, row, strict=True):
            own = [e.teacher_class for e in space.teachers[teacher] if name in e.targets]
            cells[teacher] = (
                "-" if relation == "none" else ": ".join([relation, *filter(None, [", ".join(own)])])
            )
        rows.append(cells)
    create_table_artifact(
        rows,
        key="label-space",
        description=f"Label space: {len(space.classes)} classes, and who can see them under which name.",
    )


def show_run(run: Run, name: str) -> None:
    """Where the run is tracked."""
    if watched() and run.page:
        create_link_artifact(
            run.page,
            link_text=f"MLflow: {name}",
            key=key("mlflow", name),
            description="Parameters, figures, files.",
        )


def show_diagnosis(
    lines: Sequence[str], counts: Mapping[str, int], pictures: Sequence[str], run: Run
) -> None:
    """What the pseudo-labels are like: their numbers, what is odd about them, and the plots.

    Args:
        lines: Warnings, the gravest first.
        counts: Of labels, ignore regions and the like.
        pictures: Names of the plots among the artifacts of ``run``, below ``diagnosis/``.
        run: The step's MLflow run.
    """
    if not watched():
        return
    numbers = [f"| {name.replace('_', ' ')} | {value} |" for name, value in counts.items()]
    text = ["## Pseudo-labels, before training", "", "| | |", "|---|---:|", *numbers, ""]
    text += ["**To look at:**", "", *(f"- {line}" for line in lines), ""] if lines else []
    links = [(Path(name).stem.replace("_", " "), run.file_link(f"diagnosis/{name}")) for name in pictures]
    text += [f"![{title}]({link})\n\n[{title}]({link})\n" for title, link in links if link]
    create_markdown_artifact(
        "\n".join(text), key="pseudo-labels", description="The pseudo-labels: numbers, warnings, plots."
    )


def show_questions(text: str) -> None:
    """What a person is asked, as a page that stays when the form is gone."""
    if watched():
        create_markdown_artifact(text, key="questions", description="Relations between classes to decide on.")


def show_report(run: Run, name: str, page: Path) -> None:
    """Where the report page is: on the tracking server, else on the worker's disk."""
    if not watched():
        return
    link = run.artifact_page("report/report.html")
    if link:
        create_link_artifact(
            link, link_text=f"Report: {name}", key=key("report", name), description="The report page."
        )
    else:
        create_markdown_artifact(
            f"The report is the file `{page}` on the worker's machine.", key=key("report", name)
        )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
