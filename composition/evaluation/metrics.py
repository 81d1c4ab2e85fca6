"""COCO metrics with pycocotools, for detections of any label space."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from composition.aliases import find, shared_classes, suggestion
from composition.coco import check_coco
from composition.detections import Detections
from composition.errors import UserError
from composition.evaluation.tally import Tally, tally_of


@dataclass(frozen=True)
class ClassMetrics:
    """One category; percent, None where the category has no boxes."""

    AP: float | None
    AP50: float | None
    boxes: int


@dataclass(frozen=True)
class Metrics:
    """COCO metrics in percent; None where there are no boxes to measure on.

    Attributes:
        AP: Mean over IoU 0.50:0.05:0.95 and over the categories with boxes.
        AP50: At IoU 0.50.
        AP75: At IoU 0.75.
        AP_small: Objects under 32² pixels.
        AP_medium: Objects from 32² to 96² pixels.
        AP_large: Objects over 96² pixels.
        AR100: Mean recall with at most ``max_detections`` per image (100 in COCO).
        per_class: Category name of the data set to its own figures.
        images: Images evaluated.
        boxes: Labelled boxes evaluated, crowd regions not counted.
        classes: Categories with boxes, over which the means are taken.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    AR100: float | None
    per_class: dict[str, ClassMetrics]
    images: int
    boxes: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values, nested."""
        return asdict(self)


def evaluate(
    detections: Detections,
    dataset: Mapping[str, Any],
    classes: Sequence[str],
    max_detections: int = 100,
    *,
    restrict_to: Sequence[str] | None = None,
    source: str = "dataset",
) -> Metrics:
    """Average precision as COCO defines it, computed by pycocotools.

    Args:
        detections: ``image_id`` are image ids of ``dataset``; ``class_id``
            index ``classes``.
        dataset: A COCO dictionary with labels.
        classes: The detections' class names, matched with the category names
            (equal, else through the alias table). Classes that the data set
            lacks are ignored; categories that the classes lack count as missed.
        max_detections: At most this many per image and class, best first.
        restrict_to: Names of the categories to evaluate; None = all.
        source: Name of the data set's file, for the errors.

    Returns:
        The metrics.

    Raises:
        UserError: A broken data set, an unknown name in ``restrict_to``, or
            detections on images that it does not have.
    """
    return measure(
        detections, dataset, classes, max_detections, restrict_to=restrict_to, source=source
    ).metrics


@dataclass(frozen=True)
class Measured:
    """The metrics, and what they were counted from."""

    metrics: Metrics
    tally: Tally


def measure(
    detections: Detections,
    dataset: Mapping[str, Any],
    classes: Sequence[str],
    max_detections: int = 100,
    *,
    restrict_to: Sequence[str] | None = None,
    source: str = "dataset",
) -> Measured:
    """`evaluate`, and the outcome of every detection for intervals and comparisons.

    Args and errors are those of `evaluate`.
    """
    checked = check_coco(dataset, source)
    categories = checked["categories"]
    names = [category["name"] for category in categories]
    chosen = _chosen(names, restrict_to, source)
    truth = _coco(checked["images"], categories, _renumbered(checked["annotations"]))
    found = _coco(checked["images"], categories, _results(detections, classes, checked, names, source))
    run = COCOeval(truth, found, "bbox")
    run.params.maxDets = [max_detections]
    run.params.catIds = [categories[index]["id"] for index in chosen]
    with contextlib.redirect_stdout(io.StringIO()):
        run.evaluate()
        run.accumulate()
    counts = _counts(checked["annotations"])
    # pycocotools has put catIds into ascending order
    by_id = {category["id"]: category["name"] for category in categories}
    ordered = [by_id[int(index)] for index in run.params.catIds]
    return Measured(_metrics(run, ordered, counts, len(checked["images"])), tally_of(run, ordered))


def _chosen(names: Sequence[str], restrict_to: Sequence[str] | None, source: str) -> list[int]:
    if restrict_to is None:
        return list(range(len(names)))
    chosen: set[int] = set()
    for name, found in zip(restrict_to, find(restrict_to, names), strict=True):
        if not found:
            raise UserError(
                f"{source} has no category {name!r}" + suggestion(name, names),
                "Evaluate on the categories that the file has.",
            )
        chosen.update(found)
    if not chosen:
        raise UserError(
            f"{source}: no category is left to evaluate", "Name at least one category of the file."
        )
    return sorted(chosen)


def _renumbered(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ids from 1: pycocotools takes a match with annotation id 0 for no match."""
    return [{**annotation, "id": index} for index, annotation in enumerate(annotations, 1)]


def _coco(images: Sequence[Any], categories: Sequence[Any], annotations: Sequence[Any]) -> Any:
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _results(
    detections: Detections,
    classes: Sequence[str],
    checked: Mapping[str, Any],
    names: Sequence[str],
    source: str,
) -> list[dict[str, Any]]:
    """Detections in the form that ``COCO.loadRes`` gives them."""
    known = np.array([image["id"] for image in checked["images"]], np.int64)
    strangers = detections.image_id[~np.isin(detections.image_id, known)]
    if len(strangers):
        raise UserError(
            f"detections name image id {strangers[0]}, which is not in {source}",
            "Evaluate detections on the file whose images they were made on.",
        )
    shared = shared_classes(classes, names)
    category = np.zeros(len(classes), np.int64)
    for class_id, index in shared.items():
        category[class_id] = checked["categories"][index]["id"]
    rows = detections[np.isin(detections.class_id, list(shared))]
    boxes = rows.boxes.astype(np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    return [
        {
            "id": index,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "score": score,
            "iscrowd": 0,
        }
        for index, (image_id, category_id, bbox, score) in enumerate(
            zip(
                rows.image_id.tolist(),
                category[rows.class_id].tolist(),
                np.concatenate([boxes[:, :2], size], axis=1).tolist(),
                rows.score.astype(np.float64).tolist(),
                strict=True,
            ),
            1,
        )
    ]


def _counts(annotations: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for annotation in annotations:
        if not annotation["iscrowd"]:
            counts[annotation["category_id"]] = counts.get(annotation["category_id"], 0) + 1
    return counts


def _percent(values: NDArray[np.float64]) -> float | None:
    """Mean of what was measured; pycocotools marks with -1 what was not."""
    measured = values[values > -1]
    return float(measured.mean() * 100) if measured.size else None


def _metrics(run: Any, names: Sequence[str], counts: Mapping[int, int], images: int) -> Metrics:
    # precision: (10 IoUs, 101 recalls, K categories, 4 areas, 1 maxDets); recall without the recalls
    precision, recall = run.eval["precision"][..., -1], run.eval["recall"][..., -1]
    boxes = [counts.get(category_id, 0) for category_id in run.params.catIds]
    return Metrics(
        AP=_percent(precision[..., 0]),
        AP50=_percent(precision[0, :, :, 0]),
        AP75=_percent(precision[5, :, :, 0]),
        AP_small=_percent(precision[..., 1]),
        AP_medium=_percent(precision[..., 2]),
        AP_large=_percent(precision[..., 3]),
        AR100=_percent(recall[..., 0]),
        per_class={
            name: ClassMetrics(_percent(precision[:, :, k, 0]), _percent(precision[0, :, k, 0]), boxes[k])
            for k, name in enumerate(names)
        },
        images=images,
        boxes=sum(boxes),
        classes=sum(count > 0 for count in boxes),
    )
