"""``detcompose recompose``: compose again if something has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, print_json, show_log
from flows.environment import make_home


def recompose(
    recipe: Annotated[Path, typer.Argument(help="Recipe file whose teachers are addresses in the registry.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many images.")] = None,
    hand_over_to: Annotated[
        str | None, typer.Option(help="Deployment that does the work, e.g. compose/compose.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compose a recipe again if its teachers, images or settings have changed."""
    make_home()
    show_log()
    from flows.recipe import load_recipe
    from flows.recompose import recompose as recompose_flow

    # to find that nothing has changed takes no server of Prefect's; composing starts its own flow
    done = recompose_flow.fn(load_recipe(recipe), limit, hand_over_to)
    if as_json:
        print_json(done)
        return
    what = done.get("model") or f"run {done.get('flow_run')}"
    typer.echo(f"{done['action']}: composition {done['composition'][:12]}, {what}")
