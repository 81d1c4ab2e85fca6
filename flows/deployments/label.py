"""The deployed first half: labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows.deployments.forms import ComposeForm, to_recipe
from flows.deployments.run import explained, run_name
from flows.label import label as label_flow
from tasks.export_form import Form


@flow(name="label", flow_run_name=run_name, persist_result=False)
def label(
    recipe: ComposeForm,
    form: Form = Form.COCO,
    to: str = "",
    images: Literal["link", "copy", "none"] = "link",
    detections: bool = False,
    limit: Annotated[int, Field(ge=0)] = 0,
) -> dict[str, Any]:
    """Images are labelled by several detectors together and exported; nothing is trained.

    Args:
        recipe: What to label. Its student and evaluation sets are not looked at.
        form: Format of the export.
        to: Folder of the export on the worker's machine. Empty: the labels stay in the store.
        images: Put links to the image files into the export, copies of them, or nothing.
        detections: Also export what every teacher found, before fusion.
        limit: Try it out: use only the first so many images. 0: all.
    """
    with explained():
        target = Path(to).absolute() if to else None
        return label_flow.fn(to_recipe(recipe), limit or None, form.value, target, images, detections)
