"""A person's word on the label space, asked for in the Prefect UI before a composition begins.

Where a label space is made from names alone, the teachers' behaviour on the
images may suggest that two classes are the same, or one a kind of the other.
The run then suspends itself: it holds no worker while it waits. When somebody
has answered the form, it starts again, finds what it had done in the store, and
goes on with the label space that was agreed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, cast
from urllib.parse import unquote

from prefect import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field, create_model

from composition import label_space as spaces
from composition.discovery.evidence import Direction
from composition.discovery.suggestions import Suggestion
from flows.plan import Plan, make_plan
from flows.recipe import LabelSpaceSettings, Recipe
from tasks import decisions, shown, tracking
from tasks.contact_sheet import write_contact_sheets
from tasks.decisions import Decisions
from tasks.discovery import Findings, discover_relations
from tasks.fan_out import Runner, inference
from tasks.home import Home
from tasks.image_index import index_images, list_images
from tasks.step import step
from tasks.store import digest_of, disk_errors, write_atomic

log = logging.getLogger("detcompose")

IMAGES = 2048
"""Images that the teachers are compared on: enough evidence, and bounded memory."""
QUESTIONS = 30
"""Asked at once; the others come up in the next run."""

compare = step(discover_relations, "compare teachers")
draw = step(write_contact_sheets, "draw evidence")


class Review(StrEnum):
    """What becomes of relations between classes that the teachers' behaviour suggests."""

    ASK = "ask"
    ACCEPT = "accept confident ones"
    OFF = "off"


class Answer(StrEnum):
    """A person's word on one proposal."""

    ACCEPT = "accept"
    REJECT = "reject"
    LATER = "decide later"


def reviewed(
    home: Home, recipe: Recipe, limit: int | None, review: Review, wait_hours: float, runner: Runner
) -> Recipe:
    """The recipe with a label space that has been looked at.

    A recipe that names its classes, or a label space file, has been: it comes
    back as it is.

    Args:
        home: Keeps decisions, label spaces and detections.
        recipe: What is asked for.
        limit: Use only the first so many images.
        review: Ask, accept what is confident, or leave names as they are.
        wait_hours: After so long without an answer the run fails.
        runner: Where the teachers run.

    Raises:
        UserError: As `flows.plan.make_plan`.
    """
    given = recipe.label_space
    if review == Review.OFF or given.file or given.classes:
        return recipe
    plan = make_plan(recipe, home, limit)
    # one pattern of the registry may stand for several
    if len(plan.teachers) < 2:
        return recipe
    findings = _findings(home, plan, runner)
    known = decisions.load(home)
    open_ = known.open(findings)[:QUESTIONS]
    if open_ and review == Review.ACCEPT:
        sure = [(one, True) for one in open_ if one.proposal.confident]
        known = decisions.remember(home, findings, sure, f"automatic, {flow_run.name}")
    elif open_:
        answers = _ask(home, plan, findings, open_, wait_hours)
        known = decisions.remember(home, findings, answers, f"flow run {flow_run.name}")
    return _with_decisions(home, plan, findings, known)


def _findings(home: Home, plan: Plan, runner: Runner) -> Findings:
    recipe = plan.recipe
    size = recipe.generate.shard_size
    # whole shards, so that the composition finds them again
    most = max(IMAGES // size, 1) * size
    listing = list_images(recipe.images.source, recipe.images.root, min(plan.limit or most, most))
    index = index_images(home.store, listing)
    inference(home.store, plan.teachers, index, recipe.generate, runner)
    return compare(home.store, plan.teachers, plan.space, listing, recipe.generate)


def _with_decisions(home: Home, plan: Plan, findings: Findings, known: Decisions) -> Recipe:
    """The recipe with the agreed label space as a file, where it differs from the one by names."""
    agreed = known.applied(plan.space, findings)
    if agreed == plan.space:
        return plan.recipe
    path = home.root / "label-spaces" / f"{plan.recipe.name}-{spaces.digest(agreed)[:12]}.yaml"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, spaces.dump_yaml(agreed).encode())
    log.info("label space with the accepted relations: %d classes, %s", len(agreed.classes), path)
    return plan.recipe.model_copy(update={"label_space": LabelSpaceSettings(file=path)})


def _ask(
    home: Home, plan: Plan, findings: Findings, open_: Sequence[Suggestion], wait_hours: float
) -> list[tuple[Suggestion, bool]]:
    """Suspends the run until a person has answered; comes back with what was decided."""
    key = digest_of([decisions.question(findings, one) for one in open_])[:12]
    links = _evidence(home, plan, findings, key)
    text = _introduction(links)
    shown.show_questions(_page(open_, text))
    log.info(
        "%d relations between classes need a person's word: press 'Resume' in the Prefect UI", len(open_)
    )
    form = question_form(open_, text)
    # a run without a deployment cannot be started again by anybody: it waits where it is
    wait: Any = suspend_flow_run if deployment.id else pause_flow_run
    answers = cast(RunInput, wait(wait_for_input=form, timeout=round(wait_hours * 3600), key=key))
    given = [(one, getattr(answers, f"relation_{number}")) for number, one in enumerate(open_, 1)]
    return [(one, answer == Answer.ACCEPT) for one, answer in given if answer != Answer.LATER]


def _evidence(home: Home, plan: Plan, findings: Findings, key: str) -> list[str]:
    """Contact sheets of all proposals, with addresses where a server keeps them."""
    folder = home.root / "evidence" / key
    sheets = draw(findings, folder)
    connection = tracking.client(home)
    experiment = tracking.experiment(connection, home, plan.space)
    with tracking.review_run(connection, experiment, f"review {plan.recipe.name}", key) as run:
        run.artifacts(folder, "evidence")
        return [run.file_link(f"evidence/{sheet.name}") or str(sheet) for sheet in sheets]


def question_form(open_: Sequence[Suggestion], text: str) -> type[RunInput]:
    """The form: one choice a proposal, with the evidence below it.

    Args:
        open_: The proposals.
        text: Markdown that stands above the form.
    """
    fields: dict[str, Any] = {
        f"relation_{number}": (
            Answer,
            Field(Answer.LATER, title=f"{number}. {sentence(one)}", description=_numbers(one)),
        )
        for number, one in enumerate(open_, 1)
    }
    model: type[RunInput] = create_model("Relations", __base__=RunInput, **fields)
    return model.with_initial_data(description=text)


def sentence(one: Suggestion) -> str:
    """A proposal in words."""
    says = {"same": "is the same as", "narrower": "is a kind of", "broader": "is wider than"}
    return (
        f"'{one.second_class}' of {one.second_teacher} {says[one.proposal.relation]} "
        f"'{one.first_class}' of {one.first_teacher}"
    )


def _numbers(one: Suggestion) -> str:
    sure = "Confident" if one.proposal.confident else "Not sure"
    forward = _said(one.first_teacher, one.first_class, one.second_class, one.proposal.forward)
    backward = _said(one.second_teacher, one.second_class, one.first_class, one.proposal.backward)
    return f"{sure}: {forward}; {backward}."


def _said(teacher: str, asked: str, answer: str, found: Direction) -> str:
    return (
        f"{found.boxes} boxes '{asked}' of {teacher}, {found.answered} of them seen by the other, "
        f"{found.agreed} as '{answer}'"
    )


def _introduction(links: Sequence[str]) -> str:
    """What stands above the form."""
    lines = [
        "On the images, the teachers behave as if some classes were related that their names keep apart. "
        "Accepted relations are remembered for these detectors and used from now on; rejected ones are "
        "not asked again. Evidence, the surest first:",
        "",
        *(f"- [{_file_name(link)}]({link})" for link in links),
    ]
    return "\n".join(lines)


def _page(open_: Sequence[Suggestion], text: str) -> str:
    """The questions, as they are kept when the form is gone."""
    lines = [f"{number}. {sentence(one)}. {_numbers(one)}" for number, one in enumerate(open_, 1)]
    return "\n".join([text, "", *lines])


def _file_name(link: str) -> str:
    return unquote(link.partition("&")[0]).rpartition("/")[2]
