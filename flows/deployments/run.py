"""What is common to all deployed flows: their names in the UI, and failures that say what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from composition.errors import UserError
from flows.deployments.forms import RecipeFile
from flows.environment import make_home
from tasks.home import Home
from tasks.shown import show_failure

log = logging.getLogger("detcompose")


def run_name() -> str:
    """Flow and subject, e.g. ``compose traffic``: read from the parameters of the current run."""
    given = flow_run.parameters
    names = ("recipe", "name", "student", "teacher", "detectors")
    subject = next((given[name] for name in names if given.get(name)), "")
    if isinstance(subject, list):
        subject = ", ".join(map(str, subject))
    if isinstance(subject, RecipeFile):
        subject = subject.file.stem
    return f"{flow_run.flow_name} {getattr(subject, 'name', subject)}".strip()


@contextmanager
def explained() -> Iterator[Home]:
    """The body of a deployed flow: what the user can mend is said in full, and without a traceback.

    Yields:
        The home folder, ready for use.
    """
    # Prefect sends the lines of this logger to its server, but leaves its level at "warning"
    log.setLevel(logging.INFO)
    try:
        yield make_home()
    except UserError as error:
        log.error("%s\n%s", error.problem, error.way_out)
        show_failure(error)
        # Prefect puts the text of the exception into the state, and its traceback into the log
        raise error.with_traceback(None) from None
