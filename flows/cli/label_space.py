"""``detcompose label-space``: propose and check label spaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import JsonOption, print_json, print_table
from tasks.home import Home

if TYPE_CHECKING:
    from tasks.teachers import Teacher

app = typer.Typer(help="Propose and check label spaces.", no_args_is_help=True)

TeachersOption = Annotated[
    list[str], typer.Option("--teachers", "-t", help="Teachers; repeat the option or separate with commas.")
]


@app.command()
def propose(
    teachers: TeachersOption,
    classes: Annotated[
        str | None, typer.Option(help="Classes of the union, separated with commas; default: all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a label space made from the teachers' class names, for a person to edit."""
    from composition import label_space as spaces

    vocabularies = {teacher.name: teacher.manifest.vocabulary for teacher in _find(teachers)}
    space = spaces.build(vocabularies, _split([classes]) if classes else None, {})
    if as_json:
        print_json(spaces.to_json(space))
    else:
        typer.echo(spaces.dump_yaml(space), nl=False)


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
    coverage = spaces.coverage(space)
    if as_json:
        print_json({**spaces.to_json(space), "digest": spaces.digest(space)})
        return
    names = [teacher.name for teacher in found]
    rows = [
        [name, *("●" if known else "·" for known in coverage[row])] for row, name in enumerate(space.classes)
    ]
    print_table(f"{file}: {len(space.classes)} classes, no errors", ("class", *names), rows)


def _find(references: list[str]) -> list[Teacher]:
    from tasks import teachers

    home = Home.default()
    return [teachers.find(home, reference) for reference in _split(references)]


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
