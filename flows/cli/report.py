"""``detcompose report``: results of finished compositions."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from composition.errors import UserError
from flows.cli.compose import print_record
from flows.cli.output import JsonOption, print_json, print_table
from tasks.home import RECORD_FILE, Home


def report(
    name: Annotated[str | None, typer.Argument(help="Name of the recipe; without it: list all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the results of a finished composition and where its report page lies."""
    home = Home.default()
    finished = {path.parent.name: path for path in sorted(home.reports.glob(f"*/{RECORD_FILE}"))}
    if name is None:
        records = [json.loads(path.read_text()) for path in finished.values()]
        if as_json:
            print_json(records)
        elif records:
            rows = [[record["name"], record["composition"][:12], record["report"]] for record in records]
            print_table("Compositions", ("name", "composition", "report"), rows)
        else:
            typer.echo("no composition is finished yet; run `detcompose compose RECIPE`")
        return
    if name not in finished:
        raise UserError(
            f"there is no report of {name!r}", f"Finished compositions: {', '.join(finished) or 'none yet'}."
        )
    record = json.loads(finished[name].read_text())
    print_json(record) if as_json else print_record(record)
