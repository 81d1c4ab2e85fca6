"""New teachers, new student: composes again when the registry's teachers have changed.

The guarantee is a schedule; the webhook relay (`flows.relay`) only makes it
faster. Whoever asks, the composition carries one idempotency key, made of its
digest: two that ask at once start one run.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from composition.errors import UserError
from flows.plan import Plan, make_plan
from flows.recipe import Recipe
from tasks import registry, tracking
from tasks.home import Home
from tasks.references import STUDENTS, is_reference
from tasks.registry import COMPOSITION_TAG

log = logging.getLogger("detcompose")

MAX_ATTEMPTS = 3
"""A composition that fails so often is left alone until somebody looks at it."""


@flow(name="recompose", flow_run_name="recompose {recipe.name}", persist_result=False)
def recompose(recipe: Recipe, limit: int | None = None, hand_over_to: str | None = None) -> dict[str, Any]:
    """Composes a recipe again if its teachers, images or settings have changed; otherwise does nothing.

    Args:
        recipe: What is asked for; its teachers name aliases or patterns of the
            registry, e.g. ``teachers/*@champion?pool=traffic``.
        limit: Use only the first so many images.
        hand_over_to: Deployment of `compose` that does the work, e.g.
            ``compose/compose``; empty: this run does it.

    Returns:
        ``action`` (``nothing``, ``composed`` or ``handed over``), the composition's
        digest, the teachers' versions, and the student's version or the run.

    Raises:
        UserError: Something in the recipe or the registry is wrong, or the
            composition has failed `MAX_ATTEMPTS` times.
    """
    home = Home.default()
    plan = make_plan(recipe, home, limit)
    versions = {teacher.name: teacher.origin or teacher.digest for teacher in plan.teachers}
    outcome = {"composition": plan.digest, "teachers": versions}
    existing = find_version(home, plan)
    if existing:
        log.info("nothing to do: composition %s is %s", plan.digest[:12], existing)
        return {**outcome, "action": "nothing", "model": existing}
    exact = pinned(plan)
    if hand_over_to is None:
        # most calls end above: what composes would double their time to import
        from flows.compose import compose

        return {**outcome, "action": "composed", "model": compose(exact, limit)["model"]}
    parameters = {"recipe": exact.model_dump(mode="json")} | ({"limit": limit} if limit else {})
    run = start_once(hand_over_to, parameters, plan.digest)
    log.info("composition %s: run %s of %s", plan.digest[:12], run.name, hand_over_to)
    return {**outcome, "action": "handed over", "flow_run": str(run.id)}


def find_version(home: Home, plan: Plan) -> str | None:
    """The student's version that holds a composition, whichever machine made it."""
    model = f"{STUDENTS}.{plan.recipe.name}"
    versions = registry.versions(tracking.client(home), model)
    found = registry.tagged(versions, COMPOSITION_TAG, plan.digest)
    return registry.uri(found) if found else None


def pinned(plan: Plan) -> Recipe:
    """The recipe as it was planned, whatever happens before the work begins.

    An alias may move, so addresses in the registry become versions; names of
    added teachers and paths stay. The classes are written out: `compose` would
    otherwise ask a person about them, and then make another composition than
    the one that is looked for next time.
    """
    recipe = plan.recipe
    local = iter([reference for reference in recipe.teachers if not is_reference(reference)])
    changes: dict[str, Any] = {"teachers": [one.origin or next(local) for one in plan.teachers]}
    if plan.start and plan.start.origin:
        changes["student"] = recipe.student.model_copy(update={"warm_start": f"bundle:{plan.start.origin}"})
    if recipe.label_space.file is None:
        classes = list(plan.space.classes)
        changes["label_space"] = recipe.label_space.model_copy(update={"classes": classes})
    return recipe.model_copy(update=changes)


def start_once(deployment: str, parameters: dict[str, Any], digest: str) -> FlowRun:
    """The run of a composition: the one that waits or works, or a new one after a failure.

    Args:
        deployment: Its name, ``flow/deployment``.
        parameters: Of the run.
        digest: The composition's digest, of which the idempotency key is made.

    Raises:
        UserError: `MAX_ATTEMPTS` runs have ended without a student; there is no such deployment.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            started = run_deployment(
                deployment,
                parameters=parameters,
                timeout=0,
                idempotency_key=f"composition-{digest}-{attempt}",
                as_subflow=False,
            )
        except ObjectNotFound:
            raise UserError(
                f"the Prefect server has no deployment {deployment!r}",
                "Register ours with `detcompose deploy`, or let this run compose (without --hand-over-to).",
            ) from None
        run = cast(FlowRun, started)  # asynchronous in asynchronous flows only
        if run.state is None or not run.state.is_final():
            return run
    raise UserError(
        f"composition {digest[:12]} has ended {MAX_ATTEMPTS} times without a student; "
        f"the last run of {deployment} was {run.name!r}",
        "Read its log, mend the cause, and start it by hand: from the form, or with `detcompose compose`.",
    )
