"""What the command line prints: tables for people, JSON for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

console = Console()
_NUMBER = re.compile(r"-|[\d,]+(\.\d+)?")


def show_log() -> None:
    """Lets the story of a run (logger ``detcompose``) appear on stderr."""
    logger = logging.getLogger("detcompose")
    # Prefect has put a handler of its own there already
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        handler = RichHandler(
            console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def percent(value: Any) -> str:
    """A percentage with one decimal; a dash where there is nothing to measure."""
    return f"{value:.1f}" if isinstance(value, int | float) else "-"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns of numbers are right-aligned, and every cell is shown as it is, never as markup."""
    table = Table(title=Text(title, "bold"), title_justify="left")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(_NUMBER.fullmatch(row[number]) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # class names and licences come from strangers: "[bold]" or "[/]" in them are letters
        table.add_row(*map(Text, row))
    console.print(table)


def print_results(dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The comparison: everybody's AP on one data set."""
    compared = any(row.get("lead") for row in rows)
    cells = []
    for row in rows:
        scope = f"all {row['classes']} classes" if row["scope"] == "all" else f"own {row['classes']}"
        figures = [percent(row["AP"]), _interval(row), percent(row["AP50"]), percent(row["AP75"])]
        cells.append([row["name"], row["role"], scope, *figures, *([_lead(row)] if compared else [])])
    columns = ["detector", "role", "measured on", "AP", "95 % interval", "AP50", "AP75"]
    columns += ["student ahead by (95 % interval)"] if compared else []
    print_table(f"Results on {dataset} (COCO, %)", columns, cells)


def _interval(row: Mapping[str, Any]) -> str:
    """The interval of a row's AP; records of older versions have none."""
    ends = (row.get("interval") or {}).get("AP")
    return f"{ends['low']:.1f} to {ends['high']:.1f}" if ends else "-"


def _lead(row: Mapping[str, Any]) -> str:
    lead = (row.get("lead") or {}).get("AP")
    return f"{lead['value']:+.1f} ({lead['low']:+.1f} to {lead['high']:+.1f})" if lead else "-"
