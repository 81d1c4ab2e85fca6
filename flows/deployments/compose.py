"""The deployed main job."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.compose import compose as compose_flow
from flows.deployments.forms import ComposeForm, to_recipe
from flows.deployments.review import Review, reviewed
from flows.deployments.run import explained, run_name
from tasks.fan_out import Runner


@flow(name="compose", flow_run_name=run_name, persist_result=False)
def compose(
    recipe: ComposeForm,
    limit: Annotated[int, Field(ge=0)] = 0,
    review: Review = Review.ASK,
    wait_hours: Annotated[float, Field(gt=0)] = 72,
    runner: Runner = Runner.SEQUENTIAL,
) -> dict[str, Any]:
    """Several detectors become one, without labels.

    Args:
        recipe: What to compose. Pick a recipe file, the common settings, or all settings.
        limit: Try it out: use only the first so many images. 0: all.
        review: Where classes are not named, the teachers may behave as if some were related: ask a person
            (the run waits for "Resume"), accept what is confident, or go by names alone.
        wait_hours: A run that waits for an answer longer than this fails.
        runner: Where the teachers run: one image shard after the other, or side by side.
    """
    with explained() as home:
        agreed = reviewed(home, to_recipe(recipe), limit or None, review, wait_hours, runner)
        return compose_flow.fn(agreed, limit or None, runner)
