"""Defaults that must be in the environment before Prefect and MLflow are imported."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from flows.services.connection import join_running
from flows.services.place import Place
from tasks.home import Home
from tasks.store import disk_errors

MIN_FREE = 64 * 2**20
"""Bytes that must be free to begin: the databases of Prefect and MLflow, and room to write down an error."""


def configure() -> Home:
    """Makes Prefect and MLflow keep their state in the home folder and stay quiet.

    Whatever the user has set stays as it is, so that the same command works
    against a server (``PREFECT_API_URL``, ``MLFLOW_TRACKING_URI``). Servers that
    `detcompose up` runs in this home are used by themselves.

    Returns:
        The home folder.
    """
    home = Home.default()
    join_running(Place(home))
    # anything that is still on its default would land in ~/.prefect
    os.environ.setdefault("PREFECT_HOME", str(home.root / "prefect"))
    # a closed machine's log fills with failed telemetry otherwise
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # stdout belongs to --json, and MLflow's bars would come between our lines
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # our own log lines are the story on the screen; Prefect's go to its server only,
    # and an error that the user can mend is printed once, without its traceback
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "detcompose")
    # commands that run a flow's function without a run tell their story on the screen only
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    # the first start of the ephemeral server migrates its database, slowly on busy machines
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # "creating database tables" is no news to a user
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    return home


def make_home() -> Home:
    """Makes the folders that Prefect and MLflow expect to find.

    Prefect's server does not make the parents of its own folder, and then
    restarts until its time is up.

    Returns:
        The home folder.
    """
    home = configure()
    folder = Path(os.environ["PREFECT_HOME"])
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < MIN_FREE:
            # Prefect's server would not start, and say so after two minutes, in its own words
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return home
