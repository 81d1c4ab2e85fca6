"""Inference spread over threads, processes or a Ray cluster: one task for each shard, with all teachers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from composition.errors import UserError
from model_zoo.cores import usable_cores
from tasks import unanswered
from tasks.image_index import index_parts
from tasks.infer import LOOKS, GenerateSettings, infer, infer_shard
from tasks.progress import Tracker
from tasks.shown import watched
from tasks.store import Artifact, Store
from tasks.teachers import Look, Teacher
from tasks.teams import called, forget_detectors, teams

RUNNER, WORKERS = "DETCOMPOSE_RUNNER", "DETCOMPOSE_WORKERS"


class Runner(StrEnum):
    """Where the tasks of an inference run."""

    SEQUENTIAL = "sequential"
    THREADS = "threads"
    PROCESSES = "processes"
    RAY = "ray"


def chosen_runner() -> Runner:
    """``$DETCOMPOSE_RUNNER``, or one task after the other.

    Raises:
        UserError: There is no such runner.
    """
    name = os.environ.get(RUNNER, Runner.SEQUENTIAL)
    if name not in list(Runner):
        raise UserError(f"{RUNNER} is {name!r}", f"Use one of {', '.join(Runner)}.")
    return Runner(name)


def ready_runner(runner: Runner | None = None) -> Runner:
    """The runner that is asked for, else that of the environment, once it is sure that it can be used.

    Raises:
        UserError: There is no such runner, it is not installed, or ``$DETCOMPOSE_WORKERS`` is no number.
    """
    runner = runner or chosen_runner()
    workers()
    if runner == Runner.RAY and find_spec("prefect_ray") is None:
        raise UserError(
            "runner 'ray' is not installed here", "Run `pip install 'detcompose[ray]'`, or use 'processes'."
        )
    return runner


def workers() -> int:
    """``$DETCOMPOSE_WORKERS``, or as many as there are processors for this process.

    Raises:
        UserError: Not a number.
    """
    text = os.environ.get(WORKERS, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise UserError(f"{WORKERS} is {text!r}", "Give a number from 1.")
    return int(text) if text else usable_cores()


def inference(
    store: Store,
    teachers: Sequence[Teacher],
    index: Artifact,
    settings: GenerateSettings,
    runner: Runner | None = None,
    look: Look = "first",
) -> dict[str, list[Artifact]]:
    """Runs teachers on all images of an index, many shards at once where the runner can.

    Without a runner and without anybody who could look at single shards, all of
    it is one task. A shard's images are decoded once for all teachers.

    Args:
        store: Where the shards go.
        teachers: The detectors.
        index: The images.
        settings: How they are run.
        runner: Where; default: what the environment says.
        look: See `tasks.infer.run_teachers`.

    Returns:
        Teacher name to its shards, in the order of the images.

    Raises:
        UserError: The runner is not installed; a teacher left too many images unanswered.
    """
    runner = ready_runner(runner)
    if runner == Runner.SEQUENTIAL and not watched():
        return infer(store, teachers, index, settings, look, incomplete=True)
    parts = index_parts(index, settings.shard_size)
    images = sum(map(len, parts))
    found: dict[str, list[Artifact]] = {}

    def title(team: Sequence[Teacher]) -> str:
        return called(team) + LOOKS[look]

    with ExitStack() as stack:
        stack.callback(forget_detectors)
        start = _starter(stack, runner)
        for team in teams(teachers):

            def submit(number: int, team: Sequence[Teacher] = tuple(team)) -> unanswered.Job:
                return start(
                    {
                        "store": store,
                        "team": list(team),
                        "records": parts[number],
                        "settings": settings,
                        "label": f"{number + 1}/{len(parts)}: {title(team)}",
                        "threads": threads_for(runner, len(parts)),
                        "look": look,
                    }
                )

            with Tracker(f"{title(team)} on {images} images", images) as tracker:
                found |= unanswered.gather(
                    [teacher.name for teacher in team],
                    parts,
                    [submit(number) for number in range(len(parts))],
                    submit,
                    settings.max_unanswered,
                    tracker,
                )
    return found


def threads_for(runner: Runner, parts: int) -> int:
    """Threads of one task, so that those which run beside each other do not wait for processors; 0: all."""
    if runner == Runner.SEQUENTIAL:
        return 0
    if runner == Runner.RAY:
        return 1  # what Ray counts for a task; the machine that runs it is not known here
    return max(1, usable_cores() // min(workers(), max(parts, 1)))


def _starter(stack: ExitStack, runner: Runner) -> Callable[[dict[str, Any]], unanswered.Job]:
    """Starts the task with parameters; what comes back waits for it. In sequence, waiting is doing."""
    if runner == Runner.SEQUENTIAL:
        return lambda given: lambda: infer_shard(**given)
    pool = stack.enter_context(_pool(runner))

    def start(given: dict[str, Any]) -> unanswered.Job:
        future = pool.submit(infer_shard, given)
        return lambda: future.result()

    return start


def _pool(runner: Runner) -> TaskRunner[Any]:
    if runner == Runner.THREADS:
        return ThreadPoolTaskRunner(max_workers=workers())
    if runner == Runner.PROCESSES:
        return ProcessPoolTaskRunner(max_workers=workers())
    from prefect_ray import RayTaskRunner

    found: TaskRunner[Any] = RayTaskRunner(address=os.environ.get("RAY_ADDRESS"))
    return found
