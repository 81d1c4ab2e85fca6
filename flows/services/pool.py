"""The work pool from which workers take the runs of our deployments."""

from __future__ import annotations

import contextlib

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists


def make_pool(name: str) -> None:
    """Makes a pool of processes on the Prefect server, unless it is there."""
    description = "Runs of detcompose on the machines of its workers."
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
