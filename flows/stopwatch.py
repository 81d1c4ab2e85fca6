"""Steps of a composition: announced, timed and tracked."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from model_zoo.training import TrainingProgress
from tasks.store import Artifact
from tasks.tracking import Run

log = logging.getLogger("detcompose")

LOG_EVERY_STEPS = 10
"""Training losses go to the tracking server every so many steps."""


class Step:
    """One step while it runs.

    Args:
        run: Its child run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.summary = ""

    def done(self, *artifacts: Artifact) -> None:
        """Logs what the step produced (for several shards, their sums)."""
        counts = _sums(artifacts)
        self.run.metrics({name: float(value) for name, value in counts.items()})
        self.run.tags({"digest": ",".join(artifact.digest for artifact in artifacts)[:5000]})
        self.summary = _in_words(counts)

    def done_by(self, who: str, *artifacts: Artifact) -> None:
        """`done`, of a step that several take part in: figures and digest under a name each."""
        counts = _sums(artifacts)
        self.run.metrics({f"{who}/{name}": float(value) for name, value in counts.items()})
        self.run.tags({f"digest.{who}": ",".join(artifact.digest for artifact in artifacts)[:5000]})
        self.summary = "; ".join(filter(None, (self.summary, f"{who} {_in_words(counts)}")))

    def training_progress(self, progress: TrainingProgress) -> None:
        """Logs the losses over time."""
        step = (progress.epoch - 1) * progress.steps + progress.step
        if step % LOG_EVERY_STEPS == 0 or progress.step == progress.steps:
            self.run.metrics(
                {"loss": progress.loss, "learning_rate": progress.learning_rate, **progress.losses}, step
            )


class Stopwatch:
    """Opens a child run per step and keeps the durations.

    Args:
        run: The composition's run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One step: a child run, a line in the log, a duration."""
        start = time.perf_counter()
        with self._run.child(name) as child:
            step = Step(child)
            yield step
            self.seconds[name] = round(time.perf_counter() - start, 2)
            child.metrics({"seconds": self.seconds[name]})
        log.info("%s: %s (%.1f s)", name, step.summary or "done", self.seconds[name])


def _sums(artifacts: Sequence[Artifact]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for artifact in artifacts:
        for name, value in artifact.counts.items():
            counts[name] = counts.get(name, 0) + value
    return counts


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())
