"""How a plain function becomes a Prefect task of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import httpx
import requests
from mlflow.exceptions import MlflowException
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

RETRY_SECONDS = [2.0, 10.0, 60.0]
"""Waits before another try."""

P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, R], name: str, *, run_name: str | None = None) -> Task[P, R]:
    """Wraps a pipeline step as a Prefect task.

    The store decides what is already done, by content; Prefect's own cache
    hashes paths and arguments instead and would keep pickles, so it is off.

    A step is tried again after errors that pass by themselves, such as a server
    that restarts, and after no others.

    Args:
        function: The step; stays callable without Prefect.
        name: Task name in the UI.
        run_name: Template of the task run's name, e.g. ``"infer {teacher.name}"``; default: the task's.
    """
    return task(
        name=name,
        task_run_name=run_name or name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_passes,
    )(function)


def may_pass(error: object) -> bool:
    """Whether an error can be gone when the same is tried again a little later."""
    if isinstance(error, MlflowException):
        return error.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
    # the classes of requests and httpx that stand for the network; refusals (4xx) are not among them
    network = (requests.ConnectionError, requests.Timeout, httpx.TransportError)
    return isinstance(error, (ConnectionError, TimeoutError, *network))


def _passes(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return may_pass(state.result(raise_on_failure=False))
