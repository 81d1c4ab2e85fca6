"""``detcompose label-space``: propose and check label spaces."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, print_json, print_table
from tasks.home import Home

if TYPE_CHECKING:
    from composition.label_space import LabelSpace
    from tasks.discovery import Findings
    from tasks.teachers import Teacher

app = typer.Typer(help="Propose and check label spaces.", no_args_is_help=True)

TeachersOption = Annotated[
    list[str], typer.Option("--teachers", "-t", help="Teachers; repeat the option or separate with commas.")
]
SIGNS = {"same": "●", "narrower": "◐", "broader": "○", "none": "·"}
LEGEND = "● has this class   ◐ has only kinds of it   ○ has only something wider (ignore regions)   · neither"


class Accept(StrEnum):
    """Which suggestions go into the label space without a person's look at them."""

    NONE = "none"
    CONFIDENT = "confident"
    ALL = "all"


@app.command()
def propose(
    teachers: TeachersOption,
    classes: Annotated[
        str | None, typer.Option(help="Classes of the union, separated with commas; default: all.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Unlabeled images, a folder or COCO file: compare also what the teachers do."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    accept: Annotated[
        Accept, typer.Option(help="Suggestions to apply; the others stay comments.")
    ] = Accept.NONE,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Folder for pictures of the evidence, one for each suggestion.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the label space; default: the terminal.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a label space made from the teachers' class names, for a person to edit.

    With --images, classes whose names say nothing are compared by what the
    teachers do, and suggestions with their evidence stand in the file as comments.
    """
    from composition import label_space as spaces
    from flows.plan import vocabularies

    if images is None and (contact_sheet or limit or accept is not Accept.NONE):
        raise UserError(
            "label-space propose: --contact-sheet, --limit and --accept need evidence",
            "Give --images FOLDER_OR_FILE.",
        )
    found = _find(teachers)
    space = spaces.build(vocabularies(found), _split([classes]) if classes else None, {})
    if images is None:
        _write(out, spaces.dump_yaml(space), spaces.to_json(space), as_json)
        return
    findings = _discover(found, space, images, limit)
    sheets: list[Path] = []
    if contact_sheet is not None:
        from tasks.contact_sheet import write_contact_sheets

        sheets = write_contact_sheets(findings, contact_sheet)
    text, document = _proposal(space, findings, accept, sheets)
    _write(out, text, document, as_json)


def _discover(teachers: list[Teacher], space: LabelSpace, images: Path, limit: int | None) -> Findings:
    from tasks.discovery import discover_relations
    from tasks.image_index import list_images

    return discover_relations(Home.default().store, teachers, space, list_images(images, limit=limit))


def _proposal(
    space: LabelSpace, findings: Findings, which: Accept, sheets: list[Path]
) -> tuple[str, dict[str, Any]]:
    """The file and its JSON form, after accepting what shall be accepted."""
    from composition import label_space as spaces
    from composition.discovery import suggestions as discovery

    suggestions = findings.suggestions
    after = discovery.accept(space, suggestions, which.value)
    # what was accepted is confirmed when it is held against the new label space
    open_ = [
        suggestion
        for pair in findings.pairs
        for suggestion in discovery.suggest(after, pair.first.name, pair.second.name, pair.found.proposals)
    ]
    document = {
        **spaces.to_json(after),
        "proposals": [suggestion.to_dict() for suggestion in suggestions],
        "thresholds": [
            {
                "teachers": [pair.first.name, pair.second.name],
                "ask": [round(value, 4) for value in pair.found.ask],
                "hear": [round(value, 4) for value in pair.found.hear],
            }
            for pair in findings.pairs
        ],
        "unmatched": [
            {"teacher": teacher, "class": name} for teacher, name in discovery.unmatched(after, open_)
        ],
        "images": len(findings.images),
        "contact_sheets": [str(sheet) for sheet in sheets],
    }
    return spaces.dump_yaml(after, discovery.comments(after, open_)), document


def _write(out: Path | None, text: str, document: dict[str, Any], as_json: bool) -> None:
    if out is not None:
        from tasks.store import disk_errors, write_atomic

        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, text.encode())
    if as_json:
        print_json(document)
    elif out is None:
        typer.echo(text, nl=False)
    else:
        made = [p for p in document.get("proposals", []) if p["status"] == "proposed"]
        sure = sum(p["confident"] for p in made)
        typer.echo(f"{out}: {len(document['classes'])} classes, {len(made)} suggestions, {sure} confident")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A label space file.")],
    teachers: TeachersOption,
    as_json: JsonOption = False,
) -> None:
    """Check a label space file and show which teacher can see which class."""
    from composition import label_space as spaces
    from flows.plan import read_label_space

    found = _find(teachers)
    space = read_label_space(file, found)
    relations = spaces.relations(space)
    names = [teacher.name for teacher in found]
    unseen = [c for c, known in zip(space.classes, spaces.coverage(space), strict=True) if not known.any()]
    if as_json:
        coverage = {
            name: dict(zip(names, row, strict=True))
            for name, row in zip(space.classes, relations, strict=True)
        }
        digest = spaces.digest(space)
        print_json({**spaces.to_json(space), "digest": digest, "coverage": coverage, "unseen": unseen})
        return
    rows = [
        [_titled(space, name), *(SIGNS[relation] for relation in relations[row])]
        for row, name in enumerate(space.classes)
    ]
    print_table(f"{file}: {len(space.classes)} classes, no errors", ("class", *names), rows)
    typer.echo(LEGEND)
    for teacher, entries in space.teachers.items():
        dropped = [entry.teacher_class for entry in entries if entry.relation == "drop"]
        if dropped:
            typer.echo(f"{teacher}: {len(dropped)} of {len(entries)} classes dropped: {_some(dropped)}")
    if unseen:
        typer.echo(f"no teacher can see: {_some(unseen)}; nothing can be learned about them", err=True)


def _titled(space: LabelSpace, name: str) -> str:
    """A class with its parent."""
    parent = space.parents.get(name)
    return f"{name} (a kind of {parent})" if parent else name


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _find(references: list[str]) -> list[Teacher]:
    from tasks import teachers

    home = Home.default()
    return [teachers.find(home, reference) for reference in _split(references)]


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
