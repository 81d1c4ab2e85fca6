"""Fine-tuning as a deployed flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.deployments.run import explained, run_name
from flows.finetune import finetune as finetune_flow
from flows.recipe import EvaluationSettings
from model_zoo.finetuning import FinetuneSettings


@flow(name="finetune", flow_run_name=run_name, persist_result=False)
def finetune(
    name: Annotated[str, Field(examples=["traffic-tuned"])],
    student: Annotated[str, Field(examples=["traffic"])],
    labels: Path,
    root: str = "",
    count: Annotated[int, Field(ge=0)] = 0,
    classes: list[str] = [],  # noqa: B006 - the form's start
    keep_pseudo_labels: bool = True,
    evaluation: str = "",
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008 - the form's start
    seed: Annotated[int, Field(ge=0)] = 0,
) -> dict[str, Any]:
    """A student learns further from few labels of people; what it gained and forgot is measured.

    Args:
        name: Name by which the result is addressed afterwards, also in the registry.
        student: Name of a finished composition, of an added detector, or the folder of a bundle.
        labels: COCO JSON file of the people's labels.
        root: Folder of its images. Empty: images/ beside the file, or its own folder.
        count: Use only so many of its images. 0: all.
        classes: Classes that the labels are complete for. None: all of the file that the student knows.
        keep_pseudo_labels: Keep the composition's pseudo-labels for everything else.
        evaluation: COCO JSON file on which the student is measured before and after. Empty: none.
        settings: Schedule and weights.
        seed: Seed of the training.
    """
    with explained():
        measured = [EvaluationSettings(name="evaluation", annotations=Path(evaluation))] if evaluation else []
        return finetune_flow.fn(
            name,
            student,
            labels,
            root=Path(root) if root else None,
            count=count or None,
            classes=classes or None,
            keep_pseudo_labels=keep_pseudo_labels,
            settings=settings,
            evaluate=measured,
            seed=seed,
        )
