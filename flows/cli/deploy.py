"""``detcompose deploy``: registers what can be started from the Prefect UI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, print_json
from flows.environment import make_home


def deploy(
    recompose: Annotated[
        list[Path] | None,
        typer.Option(help="Recipe that is composed again whenever its teachers change; repeat for several."),
    ] = None,
    cron: Annotated[str, typer.Option(help="When recipes of --recompose are looked at (UTC).")] = "0 3 * * *",
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder in which runs start; default: this one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Register all deployments, the work pool and the GPU limits of this machine on the Prefect server.

    `detcompose up` does it by itself for its own server; doing it again changes only what differs.
    """
    make_home()
    from prefect.settings import PREFECT_API_URL

    from flows.deployments import DEPLOYMENTS
    from flows.deployments import deploy as register
    from flows.deployments.table import recomposition
    from flows.recipe import load_recipe

    if not PREFECT_API_URL.value():
        raise UserError(
            "there is no Prefect server to register deployments on",
            "Start one with `detcompose up`, or set PREFECT_API_URL.",
        )
    again = [recomposition(load_recipe(path), _checked(cron)) for path in recompose or []]
    names = register(working_dir=working_dir, deployments=(*DEPLOYMENTS, *again))
    if as_json:
        print_json({"deployments": names})
    else:
        for name in names:
            typer.echo(f"registered {name}")


def _checked(cron: str) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        return CronSchedule(cron=cron).cron
    except ValueError:
        raise UserError(
            f"--cron {cron!r} is no time", "Write minute, hour, day, month and weekday: '0 3 * * *'."
        ) from None
