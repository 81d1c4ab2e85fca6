"""Registers the work pool, the limits and all deployments with a Prefect server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner.storage import LocalStorage
from prefect.types.entrypoint import EntrypointType

from flows.deployments.table import DEPLOYMENTS, POOL, Deployment
from flows.services.pool import make_pool
from tasks.devices import Device, gpus

ENVIRONMENT = {"PREFECT_LOGGING_EXTRA_LOGGERS": "detcompose"}
"""What every run needs in its environment: our log lines go to the server, too."""


def deploy(
    *,
    pool: str = POOL,
    working_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
    deployments: Sequence[Deployment] = DEPLOYMENTS,
) -> list[str]:
    """Makes everything that can be started known to the server at ``PREFECT_API_URL``.

    Doing it again changes only what differs.

    Args:
        pool: Work pool of type ``process``; made when missing.
        working_dir: Folder in which the runs start, from which relative paths in
            the forms count; default: the current one.
        environment: Variables that the runs get beside the worker's own. They are
            stored on the server and shown in its UI: no secrets.
        deployments: What to register.

    Returns:
        The deployments' names, ``<flow>/<flow>``.
    """
    make_pool(pool)
    make_limits(gpus())
    folder = (working_dir or Path.cwd()).resolve()
    variables = {**ENVIRONMENT, **(environment or {})}
    return [_register(entry, pool, folder, variables) for entry in deployments]


def make_limits(devices: Sequence[Device]) -> None:
    """One concurrency slot for each device of this host; those that exist keep what a person set."""
    with get_client(sync_client=True) as client:
        for device in devices:
            try:
                client.read_global_concurrency_limit_by_name(device.limit)
            except ObjectNotFound:
                client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=device.limit, limit=1)
                )


def _register(entry: Deployment, pool: str, folder: Path, environment: Mapping[str, str]) -> str:
    flow = entry.load()
    limit = entry.concurrency and ConcurrencyLimitConfig(
        limit=entry.concurrency, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
    )
    deployment = RunnerDeployment.from_flow(
        flow,
        name=entry.name or flow.name,
        cron=entry.cron,
        parameters=dict(entry.parameters),
        description=cleandoc(flow.fn.__doc__ or "").split("\n\nArgs:")[0],
        tags=["detcompose", *entry.tags],
        version=version("detcompose"),
        concurrency_limit=limit,
        work_pool_name=pool,
        job_variables={"env": dict(environment)},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # a pull step that changes the folder: without one, Prefect copies the worker's folder for every run
    deployment.storage = LocalStorage(str(folder))
    deployment.apply()
    return deployment.full_name
