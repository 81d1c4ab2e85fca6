"""Discovery on images: runs the teachers, and holds what they do against the label space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from composition.detections import Detections
from composition.discovery import Discovery, DiscoverySettings, discover
from composition.discovery.suggestions import Suggestion, suggest
from composition.errors import UserError
from composition.label_space import LabelSpace
from tasks.image_index import ImageList, ImageRecord, build_index, load_index
from tasks.infer import GenerateSettings, load_all, run_teachers
from tasks.store import Store
from tasks.teachers import Teacher


@dataclass(frozen=True, slots=True)
class PairDiscovery:
    """What was found for two teachers.

    Attributes:
        first: The earlier teacher of the label space.
        second: The later one.
        found: Proposals, answers and thresholds.
        suggestions: The proposals, seen from the label space.
    """

    first: Teacher
    second: Teacher
    found: Discovery
    suggestions: tuple[Suggestion, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """Discovery over all pairs of teachers.

    Attributes:
        pairs: Every two teachers.
        detections: Teacher name to its detections.
        images: Image id to the image.
    """

    pairs: tuple[PairDiscovery, ...]
    detections: dict[str, Detections]
    images: dict[int, ImageRecord]

    @property
    def suggestions(self) -> list[Suggestion]:
        """Of all pairs, confident ones first."""
        everything = [suggestion for pair in self.pairs for suggestion in pair.suggestions]
        return sorted(everything, key=lambda s: (not s.proposal.confident, s.proposal.p_value))


def discover_relations(
    store: Store,
    teachers: Sequence[Teacher],
    space: LabelSpace,
    listing: ImageList,
    generate: GenerateSettings | None = None,
    settings: DiscoverySettings | None = None,
) -> Findings:
    """Runs the teachers on unlabeled images and compares what they do.

    The detections land in the store under the keys that a composition of the
    same teachers and images uses, so nothing is computed twice.

    Args:
        store: Where index and detections go.
        teachers: At least two, in the order of the label space.
        space: The label space made from their names.
        listing: The images.
        generate: How the teachers are run.
        settings: When evidence is enough.

    Raises:
        UserError: Fewer than two teachers.
    """
    if len(teachers) < 2:
        raise UserError(
            "label-space propose: --images needs two teachers to compare", "Name at least two teachers."
        )
    index = build_index(store, listing)
    chosen = generate or GenerateSettings()
    shards = run_teachers(store, teachers, index, chosen)
    detections = {name: load_all(parts) for name, parts in shards.items()}
    pairs = []
    for first, second in combinations(teachers, 2):
        sizes = (len(first.manifest.vocabulary), len(second.manifest.vocabulary))
        found = discover(detections[first.name], detections[second.name], sizes, settings)
        suggestions = suggest(space, first.name, second.name, found.proposals)
        pairs.append(PairDiscovery(first, second, found, tuple(suggestions)))
    images = {record.image_id: record for record in load_index(index)}
    return Findings(tuple(pairs), detections, images)
