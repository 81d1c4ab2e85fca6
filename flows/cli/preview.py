"""``detcompose preview``: teachers, fusion and pseudo-labels of some images, to be looked at."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, console, print_json
from flows.environment import make_home
from tasks.home import Home


class Form(StrEnum):
    """What a preview is written as."""

    HTML = "html"
    PNG = "png"


def preview(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML); its student is not looked at.")],
    out: Annotated[Path, typer.Option(help="Folder of the page or the pictures.")] = Path("preview"),
    images_shown: Annotated[int, typer.Option(min=1, max=200, help="How many images of the pool.")] = 8,
    name: Annotated[
        str | None, typer.Option("--class", help="Only images with a box of this class, and its sheet.")
    ] = None,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Boxes of teachers and of fusion below it are not drawn.")
    ] = 0.25,
    form: Annotated[Form, typer.Option("--format", help="One page, or a folder of PNG files.")] = Form.HTML,
    as_json: JsonOption = False,
) -> None:
    """Draw what each teacher sees, what fusion makes of it, what is kept, ignored and filtered.

    Uses what the store has of the whole pool, else runs the teachers on the images shown alone.
    """
    make_home()
    from flows.preview import preview as make_preview
    from flows.recipe import load_recipe
    from tasks.preview_page import draw, write_page, write_pictures

    made = make_preview(load_recipe(recipe), Home.default(), images_shown, name)
    drawn = draw(made, score, name)
    files = (write_page if form is Form.HTML else write_pictures)(drawn, out)
    if as_json:
        print_json(
            {
                "images": [image.record.path for image in made.images],
                "whole_pool": made.whole,
                "files": [str(file) for file in files],
            }
        )
        return
    source = "from the store" if made.whole else "teachers ran on these alone"
    console.print(f"{len(made.images)} of {made.pool:,} images, {source}")
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False, markup=False)
