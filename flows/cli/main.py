"""Entry point of ``detcompose``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer

from composition.errors import UserError
from flows.cli import (
    compose,
    deploy,
    diagnose,
    ensemble,
    evaluate,
    export,
    finetune,
    label,
    label_space,
    predict,
    preview,
    promote,
    pull,
    recompose,
    registry,
    report,
    teacher,
    train,
    up,
    webhook,
)
from flows.cli.doctor import doctor

OUR_PACKAGES = ("flows", "tasks", "composition", "model_zoo")
STOP_SECONDS = 10.0
"""After a signal the process is gone at the latest after this time."""

app = typer.Typer(
    help="Many object detectors in, one detector out, no labels needed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(teacher.app, name="teacher")
app.add_typer(registry.app, name="registry")
app.add_typer(label_space.app, name="label-space")
app.command("compose")(compose.compose)
app.command("label")(label.label)
app.command("train")(train.train)
app.command("finetune")(finetune.finetune)
app.command("ensemble")(ensemble.ensemble)
app.command("diagnose")(diagnose.diagnose)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("preview")(preview.preview)
app.command("promote")(promote.promote)
app.command("pull")(pull.pull)
app.command("recompose")(recompose.recompose)
app.add_typer(webhook.app, name="webhook")
app.command("report")(report.report)
app.command("deploy")(deploy.deploy)
app.command("up")(up.up)
app.command("down")(up.down)
app.command("status")(up.status)
app.command("doctor")(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"detcompose {version('detcompose')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""


def _stop(number: int, _: FrameType | None) -> None:
    """Ends the process in good order: the step's clean-up runs, and the tracking run is marked KILLED.

    Ctrl-C also reaches Prefect's own server beside us, and Prefect then asks
    the dead server for minutes how to end; so there is a limit.
    """
    limit = threading.Timer(STOP_SECONDS, os._exit, [128 + number])
    limit.daemon = True
    limit.start()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def main() -> None:
    """Runs the command line.

    Exit codes: 0 done, 1 an error of ours, 2 an error the user can mend, 130 interrupted,
    143 terminated.
    """
    from flows.environment import configure

    configure()
    # without a handler SIGTERM skips the exit handlers, and would orphan Prefect's server
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        app(standalone_mode=True)
    except UserError as error:
        typer.echo(f"error: {error.problem}", err=True)
        if error.way_out:
            typer.echo(f"       {error.way_out}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OUR_PACKAGES:
            raise
        typer.echo(f"error: this needs {error.name}, which is not installed", err=True)
        typer.echo("       Install all of detcompose: pip install 'detcompose[pipeline]'", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)
