"""Inference spread over threads, processes or a Ray cluster: one task for each teacher and shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from composition.errors import UserError
from tasks import unanswered
from tasks.image_index import load_index, shards
from tasks.infer import GenerateSettings, forget_detector, infer, infer_shard
from tasks.progress import Tracker
from tasks.shown import watched
from tasks.store import Artifact, Store
from tasks.teachers import Teacher

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


def workers() -> int:
    """``$DETCOMPOSE_WORKERS``, or as many as there are processors.

    Raises:
        UserError: Not a number.
    """
    text = os.environ.get(WORKERS, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise UserError(f"{WORKERS} is {text!r}", "Give a number from 1.")
    return int(text) if text else os.cpu_count() or 1


@contextmanager
def inference(
    store: Store,
    teachers: Sequence[Teacher],
    index: Artifact,
    settings: GenerateSettings,
    runner: Runner | None = None,
) -> Iterator[Callable[[Teacher], list[Artifact]]]:
    """Runs teachers on all images of an index, all of them at once where the runner can.

    Without a runner and without anybody who could look at single shards, every
    teacher is one task.

    Args:
        store: Where the shards go.
        teachers: The detectors.
        index: The images.
        settings: How they are run.
        runner: Where; default: what the environment says.

    Yields:
        A function that waits for a teacher's shards, in the order of the images.

    Raises:
        UserError: The runner is not installed; a teacher left too many images unanswered.
    """
    runner = runner or chosen_runner()
    if runner == Runner.SEQUENTIAL and not watched():
        yield lambda teacher: infer(store, teacher, index, settings, incomplete=True)
        return
    parts = list(shards(load_index(index), settings.shard_size))
    with ExitStack() as stack:
        stack.callback(forget_detector)
        start = _starter(stack, runner)

        def submit(teacher: Teacher, number: int) -> Callable[[], Artifact]:
            label = f"{teacher.name} {number + 1}/{len(parts)}"
            given = {"store": store, "teacher": teacher, "records": parts[number]}
            return start({**given, "settings": settings, "label": label})

        jobs = {
            teacher.name: [submit(teacher, number) for number in range(len(parts))] for teacher in teachers
        }

        def shards_of(teacher: Teacher) -> list[Artifact]:
            images = sum(map(len, parts))
            with Tracker(f"{teacher.name} on {images} images", images) as tracker:
                return unanswered.gather(
                    teacher.name,
                    parts,
                    jobs[teacher.name],
                    partial(submit, teacher),
                    settings.max_unanswered,
                    tracker,
                )

        yield shards_of


def _starter(stack: ExitStack, runner: Runner) -> Callable[[dict[str, Any]], Callable[[], Artifact]]:
    """Starts the task with parameters; what comes back waits for it. In sequence, waiting is doing."""
    if runner == Runner.SEQUENTIAL:
        return lambda given: lambda: infer_shard(**given)
    pool = stack.enter_context(_pool(runner))

    def start(given: dict[str, Any]) -> Callable[[], Artifact]:
        future = pool.submit(infer_shard, given)
        return lambda: future.result()

    return start


def _pool(runner: Runner) -> TaskRunner[Any]:
    if runner == Runner.THREADS:
        return ThreadPoolTaskRunner(max_workers=workers())
    if runner == Runner.PROCESSES:
        return ProcessPoolTaskRunner(max_workers=workers())
    if find_spec("prefect_ray") is None:
        raise UserError(
            "runner 'ray' is not installed here", "Run `pip install prefect-ray`, or use 'processes'."
        )
    from prefect_ray import RayTaskRunner

    found: TaskRunner[Any] = RayTaskRunner(address=os.environ.get("RAY_ADDRESS"))
    return found
