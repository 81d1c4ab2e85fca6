"""How a plain function becomes a Prefect task of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, R], name: str, *, run_name: str | None = None) -> Task[P, R]:
    """Wraps a pipeline step as a Prefect task.

    The store decides what is already done, by content; Prefect's own cache
    hashes paths and arguments instead and would keep pickles, so it is off.

    Args:
        function: The step; stays callable without Prefect.
        name: Task name in the UI.
        run_name: Template of the task run's name, e.g. ``"infer {teacher.name}"``.
    """
    return task(name=name, task_run_name=run_name, cache_policy=NO_CACHE, persist_result=False)(function)
