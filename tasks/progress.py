"""Progress of long work: a bar in a terminal, a progress artifact in the Prefect UI."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

ARTIFACT_INTERVAL = 5.0
"""Seconds between updates of the artifact; each one is a request to the server."""


class Tracker:
    """Shows how far a piece of work is, wherever someone may be looking.

    Args:
        label: What is being done, shown beside the bar.
        total: Number of steps.
        bar: Draw a bar in a terminal; not for work that runs beside other work.
    """

    def __init__(self, label: str, total: int, *, bar: bool = True) -> None:
        self.label = label
        self.total = total
        self._wants_bar = bar
        self._start: tuple[float, float] | None = None
        self._done = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._artifact: UUID | None = None
        self._last_update = time.monotonic()

    def __enter__(self) -> Self:
        if self._wants_bar and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._artifact and kind is None:
            from prefect.artifacts import update_progress_artifact

            update_progress_artifact(self._artifact, 100.0)

    def update(self, done: float, note: str = "") -> None:
        """Says that ``done`` steps are behind us, with a few words about the current one."""
        self._done = done
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        now = time.monotonic()
        # what was found done says nothing about the speed
        self._start = self._start or (now, done)
        if now - self._last_update >= ARTIFACT_INTERVAL and _in_prefect_run():
            self._last_update = now
            self._report(note)

    def _report(self, note: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        percent = 100.0 * self._done / max(self.total, 1)
        text = ", ".join(filter(None, (self.label, note, self._left())))
        if self._artifact is None:
            created = create_progress_artifact(percent, description=text)
            self._artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def _left(self) -> str:
        """How long it will still take, in words."""
        began, before = self._start or (0.0, 0.0)
        if self._done <= before:
            return ""
        seconds = (time.monotonic() - began) / (self._done - before) * (self.total - self._done)
        return f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yields the items and shows how many have been taken."""
    with Tracker(label, total) as tracker:
        for count, item in enumerate(items, start=1):
            yield item
            tracker.update(count)


def _in_prefect_run() -> bool:
    # a machine that only predicts has no Prefect, and nobody is in a run without having imported it
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return TaskRunContext.get() is not None or FlowRunContext.get() is not None
