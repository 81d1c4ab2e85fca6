"""The gate before a student becomes the champion: measured against the champion, recorded, or refused."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from composition.aliases import shared_classes
from composition.errors import UserError
from composition.evaluation import Difference, Tally, paired_difference
from composition.promotion import MARGIN, Decision, class_level, decide, draws_needed
from model_zoo import bundle
from tasks import registry, tracking
from tasks.evaluate import Dataset, examine_detector
from tasks.home import Home
from tasks.references import CHALLENGER, CHAMPION, parse
from tasks.teachers import Teacher

PREVIOUS = "previous"
"""Alias of the version that was champion before: `promote --force students/x@previous` goes back."""
TAG = "promotion"
FORCED_TAG = "promotion.forced"


class PromotionRefusedError(UserError):
    """The gate said no.

    Args:
        verdict: What was measured.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(
            f"{verdict.challenger} is not promoted: {'; '.join(verdict.decision.reasons)}",
            f"{verdict.champion} stays champion. Look at the table, compose again, or override it with "
            "--force --reason '...', which is recorded.",
        )
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Verdict:
    """A challenger beside the champion.

    Attributes:
        challenger: Its version, ``models:/students.x/4``.
        champion: The version in use; None where there is none yet.
        decision: The answer.
        rows: Per class name, AP of both and the change with its interval, in JSON form.
        overall: The change of the mean AP in JSON form, if there is one.
        unmeasured: Classes that the images have no object of.
        images: Number of images.
        dataset: Digest of the annotations.
        source: Their file's name.
    """

    challenger: str
    champion: str | None
    decision: Decision
    rows: Mapping[str, Mapping[str, Any]]
    overall: Mapping[str, Any] | None
    unmeasured: tuple[str, ...]
    images: int
    dataset: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "challenger": self.challenger,
            "champion": self.champion,
            "allowed": self.decision.allowed,
            "reasons": list(self.decision.reasons),
            "better": list(self.decision.better),
            "worse": list(self.decision.worse),
            "AP": self.overall,
            "per_class": dict(self.rows),
            "unmeasured": list(self.unmeasured),
            "images": self.images,
            "dataset": self.dataset,
            "source": self.source,
        }


def promote_student(
    home: Home, text: str, dataset: Dataset, *, margin: float = MARGIN, forced: str | None = None
) -> dict[str, Any]:
    """Makes a student the champion, if it is not worse than the champion.

    Args:
        home: Where MLflow is.
        text: E.g. ``students/x``; without an alias the challenger.
        dataset: Labelled images, of which neither has learned.
        margin: Points of mean AP that may be lost.
        forced: Promote whatever was measured; the reason, which is recorded.

    Returns:
        The verdict in JSON form, and ``promoted``.

    Raises:
        PromotionRefusedError: The gate said no; the verdict is recorded at the version.
        UserError: No such version, or it is the champion already.
    """
    connection = tracking.client(home)
    challenger = registry.resolve(connection, parse(text, CHALLENGER))
    aliases = connection.get_registered_model(challenger.name).aliases
    number = aliases.get(CHAMPION)
    if str(number) == str(challenger.version):
        raise UserError(f"{registry.uri(challenger)} is the champion already", "Nothing is to be done.")
    champion = None if number is None else connection.get_model_version(challenger.name, number)
    verdict = judge(home, connection, challenger, champion, dataset, margin)
    refused = not verdict.decision.allowed and forced is None
    _record(connection, challenger, verdict, "refused" if refused else "promoted", forced)
    if refused:
        raise PromotionRefusedError(verdict)
    if champion is not None:
        connection.set_registered_model_alias(challenger.name, PREVIOUS, champion.version)
    connection.set_registered_model_alias(challenger.name, CHAMPION, challenger.version)
    if str(aliases.get(CHALLENGER)) == str(challenger.version):
        connection.delete_registered_model_alias(challenger.name, CHALLENGER)
    return {**verdict.to_dict(), "promoted": True, "forced": forced}


def judge(
    home: Home,
    connection: MlflowClient,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    dataset: Dataset,
    margin: float = MARGIN,
) -> Verdict:
    """Measures both on the same images; see `composition.promotion`.

    Raises:
        UserError: The images and a detector have no class in common.
    """

    def opened(version: ModelVersion) -> Teacher:
        folder = registry.fetch(home, connection, version)
        name = f"{str(version.name).partition('.')[2]} version {version.version}"
        return Teacher(name, folder, bundle.read(folder, verify=False), registry.uri(version))

    new = opened(challenger)
    ours = examine_detector(home.store, new, dataset).measured.tally
    known = new.manifest.vocabulary
    unopposed = Verdict(
        challenger=registry.uri(challenger),
        champion=None,
        decision=Decision(allowed=True, reasons=(), better=(), worse=()),
        rows={},
        overall=None,
        unmeasured=tuple(sorted(set(known) - set(_measured(ours, known)))),
        images=len(dataset.coco["images"]),
        dataset=dataset.digest,
        source=dataset.source.name,
    )
    if champion is None:
        return unopposed
    old = opened(champion)
    theirs = examine_detector(home.store, old, dataset).measured.tally
    shared = shared_classes(old.manifest.vocabulary, known)
    missing = [name for index, name in enumerate(old.manifest.vocabulary) if index not in shared]
    classes = [name for name in ours.classes if name in theirs.classes]
    overall = paired_difference(ours, theirs)
    by_class = paired_difference(
        ours, theirs, level=class_level(len(classes)), resamples=draws_needed(len(classes))
    )
    decision = decide(overall, by_class, missing, margin)
    return replace(
        unopposed,
        champion=registry.uri(champion),
        decision=decision,
        rows=_rows(by_class, decision),
        overall=overall.to_dict()["AP"],
    )


def _measured(tally: Tally, vocabulary: tuple[str, ...]) -> list[str]:
    """The classes of a vocabulary that have an object in the images."""
    seen = [name for name, counts in tally.classes.items() if counts.objects.sum()]
    return [vocabulary[index] for index in shared_classes(vocabulary, seen)]


def _rows(by_class: Difference, decision: Decision) -> dict[str, dict[str, Any]]:
    verdicts = dict.fromkeys(decision.better, "better") | dict.fromkeys(decision.worse, "worse")
    return {
        name: {**change, "verdict": verdicts.get(name, "no clear difference")}
        for name, change in by_class.to_dict()["per_class"].items()
    }


def _record(
    connection: MlflowClient, version: ModelVersion, verdict: Verdict, outcome: str, forced: str | None
) -> None:
    """Tags of the version, and the whole table beside its files."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = {"outcome": outcome, "forced": forced, "at": now, **verdict.to_dict()}
    short = {key: value for key, value in document.items() if key not in ("per_class", "unmeasured")}
    connection.set_model_version_tag(version.name, version.version, TAG, json.dumps(short))
    if forced is not None:
        connection.set_model_version_tag(version.name, version.version, FORCED_TAG, forced)
    if version.run_id:
        connection.log_dict(version.run_id, document, f"promotion/version-{version.version}.json")
