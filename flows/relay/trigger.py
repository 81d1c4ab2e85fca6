"""Starting recompositions, once for a burst of events."""

from __future__ import annotations

import asyncio
import logging
import time

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment

from flows.relay.settings import Settings
from tasks import registry, tracking
from tasks.home import Home
from tasks.references import TEACHERS
from tasks.store import digest_of

log = logging.getLogger("detcompose.relay")

FLOW = "recompose"
RETRY_SECONDS = (1, 2, 4, 8, 16, 32)
"""Pauses between attempts when a server does not answer; after that the schedule has to do."""


class Trigger:
    """Collects events until they pause, then starts the recompositions.

    Args:
        settings: How long to wait, and which deployments to run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._event = asyncio.Event()
        self._last = 0.0

    def notify(self) -> None:
        """Something has changed."""
        self._last = time.monotonic()
        self._event.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            await self._event.wait()
            await self._burst()
            # what comes from here on is a change that the next lines may not see
            self._event.clear()
            await self._start()

    async def _burst(self) -> None:
        end = time.monotonic() + self._settings.longest
        while (now := time.monotonic()) < min(end, self._last + self._settings.quiet):
            await asyncio.sleep(min(end, self._last + self._settings.quiet) - now)

    async def _start(self) -> None:
        for pause in (*RETRY_SECONDS, None):
            try:
                runs = await start_recompositions(self._settings.deployments)
            except Exception as error:  # whatever a server answers, the relay has to stay
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                if pause is None:
                    log.error("no recomposition was started: %s; the schedule will catch up", reason)
                    return
                log.warning("recompositions cannot be started: %s; again in %s s", reason, pause)
                await asyncio.sleep(pause)
                continue
            for run in runs:
                log.info("run %s (%s)", run.name, run.id)
            if not runs:
                log.warning("there is no deployment of the flow %r that could be run", FLOW)
            return


async def start_recompositions(deployments: tuple[str, ...]) -> list[FlowRun]:
    """Runs the deployments, once for each state of the registry's teachers.

    Args:
        deployments: Their names; empty: every one of the flow `recompose` that is not paused.
    """
    state = await asyncio.to_thread(registry_state)
    runs = []
    async with get_client() as client:
        if deployments:
            found = [await client.read_deployment_by_name(name) for name in deployments]
        else:
            every = await client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])))
            found = [deployment for deployment in every if not deployment.paused]
        for deployment in found:
            # a flow's keys are shared by its deployments
            key = f"{FLOW}-{deployment.id}-{state}"
            runs.append(
                await arun_deployment(
                    deployment.id, client=client, timeout=0, idempotency_key=key, as_subflow=False
                )
            )
    return runs


def registry_state() -> str:
    """Digest of which version every alias of every teacher means now."""
    models = registry.models(tracking.client(Home.default()), TEACHERS)
    return digest_of(
        [[str(model.name), sorted((a, str(v)) for a, v in model.aliases.items())] for model in models]
    )
