"""What keeps the registry going, as deployed flows: register a teacher, compose again, promote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from composition.promotion import MARGIN
from flows.deployments.forms import ComposeForm, to_recipe
from flows.deployments.run import explained, run_name
from flows.promote import promote as promote_flow
from flows.recompose import recompose as recompose_flow
from flows.register import register as register_flow
from tasks.references import CHAMPION, tags_of


@flow(name="register-teacher", flow_run_name=run_name, persist_result=False)
def register_teacher(
    teacher: Annotated[str, Field(examples=["yolox-coco"])],
    name: str = "",
    alias: str = CHAMPION,
    tags: Annotated[list[str], Field(examples=[["pool=traffic"]])] = [],  # noqa: B006 - the form's start
) -> dict[str, Any]:
    """A teacher becomes a version in the registry, where recipes and `recompose` find it.

    Args:
        teacher: Name of an added teacher, or path of a bundle.
        name: Its name in the registry. Empty: its own.
        alias: The alias that the version gets, taken from the version that has it. Empty: none.
        tags: More tags of the version, as key=value; recipes can select by them.
    """
    with explained():
        return register_flow.fn(teacher, name or None, alias or None, tags_of(tags))


@flow(name="recompose", flow_run_name=run_name, persist_result=False)
def recompose(
    recipe: ComposeForm,
    limit: Annotated[int, Field(ge=0)] = 0,
    hand_over_to: str = "compose/compose",
) -> dict[str, Any]:
    """A recipe is composed again if its teachers, images or settings have changed; otherwise nothing happens.

    Args:
        recipe: What to compose; its teachers name aliases or patterns of the registry.
        limit: Try it out: use only the first so many images. 0: all.
        hand_over_to: Deployment that does the work. Empty: this run does it.
    """
    with explained():
        return recompose_flow.fn(to_recipe(recipe), limit or None, hand_over_to or None)


@flow(name="promote", flow_run_name=run_name, persist_result=False)
def promote(
    student: Annotated[str, Field(examples=["students/traffic"])],
    on: Path,
    root: str = "",
    margin: Annotated[float, Field(ge=0)] = MARGIN,
    force: bool = False,
    reason: str = "",
) -> dict[str, Any]:
    """A student becomes the champion if it is not worse than the one in use.

    Args:
        student: Its registered model; without an alias or version its challenger.
        on: COCO JSON file with labels, of images that neither has learned from.
        root: Folder of its images. Empty: images/ beside the file, or its own folder.
        margin: Points of mean AP that may be lost, at the lower end of the 95 % interval.
        force: Promote whatever is measured; needs a reason.
        reason: Why it is forced; recorded at the version.
    """
    with explained():
        return promote_flow.fn(student, on, Path(root) if root else None, margin, force, reason or None)
