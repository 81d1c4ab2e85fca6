"""``python -m flows.services.worker``: takes runs of our deployments from the server and starts them.

Prefect's own process worker, and around it what a machine needs that may be
switched off at any time: runs that were cut off end in a clear state, and the
server notices when a whole machine falls silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.logging import get_logger
from prefect.states import Cancelled, Crashed
from prefect.workers.process import ProcessWorker

from flows.services import processes
from flows.services.place import Place
from flows.services.pool import make_pool
from flows.services.settings import HEARTBEAT_SECONDS, POOL, WORKER
from tasks.home import Home

SILENCE = timedelta(seconds=4 * HEARTBEAT_SECONDS)
"""A run that has not said so for this long has crashed."""
SILENT_RUNS = "detcompose: a run that falls silent has crashed"
RUN_GRACE = 20.0
"""Seconds that the runs get to say goodbye when the worker is stopped."""

AGAIN = "Run it again: it goes on where it was."

log = get_logger("detcompose.worker")


def main() -> None:
    """Runs until SIGTERM."""
    place = Place(Home.default())
    wait_for_server()
    make_pool(POOL)
    _watch_for_silence()
    # whoever ran under this worker's name before is gone: the supervisor has seen to that
    end_lost_runs(place.worker_name)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_work(place))
    end_lost_runs(place.worker_name)


async def _work(place: Place) -> None:
    worker = ProcessWorker(work_pool_name=POOL, name=place.worker_name)
    task = asyncio.ensure_future(worker.start())
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    # Ctrl-C is the supervisor's business
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    stopping = asyncio.ensure_future(asked.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        await asyncio.to_thread(_stop_runs, place)
        task.cancel()
    await task


def _stop_runs(place: Place) -> None:
    """Asks the runs to stop, which they report themselves."""

    def runs() -> list[int]:
        return [found.pid for found in processes.find(place.identity, WORKER)]

    processes.end(runs, runs(), RUN_GRACE)


def wait_for_server(pause: float = 0.5) -> None:
    """Waits until the Prefect server answers; whoever started us says when that is too long."""
    with get_client(sync_client=True) as client:
        while client.api_healthcheck() is not None:
            time.sleep(pause)


def _watch_for_silence() -> None:
    """Has the server mark runs as crashed whose machine no longer says anything."""
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(SILENT_RUNS):
            return
    ended = (
        "Completed",
        "Failed",
        "Cancelled",
        "Crashed",
        "Paused",
        "Suspended",
        "Scheduled",
        "AwaitingRetry",
    )
    Automation(
        name=SILENT_RUNS,
        description=f"No heartbeat for {SILENCE}: its machine is off or cut off.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ended)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"The run fell silent; its machine may be off. {AGAIN}",
            )
        ],
    ).create()


def end_lost_runs(worker: str) -> list[FlowRun]:
    """Gives runs of this worker that no process stands behind any more their end.

    Args:
        worker: Name of the worker, all of whose processes are gone.

    Returns:
        The runs.
    """
    pending = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": pending}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        )
        lost = [run for run in runs if run.labels.get("prefect.worker.name") == worker]
        for run in lost:
            state: State[Any]
            if run.state_type == StateType.CANCELLING:
                state = Cancelled(message="The run was cancelled; its worker was stopped meanwhile.")
            else:
                state = Crashed(message=f"Worker {worker} was stopped during the run. {AGAIN}")
            client.set_flow_run_state(run.id, state, force=True)
            log.warning("run %s (%s): %s", run.name, run.id, state.message)
    return lost


if __name__ == "__main__":
    main()
