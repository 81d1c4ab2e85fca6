"""Further looks at the images, in the mirror and enlarged: who takes which of them, and all as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from composition import detections as table
from composition import looks, mirror, zoom
from composition.detections import Detections
from composition.mirror import Faithfulness
from composition.zoom import Zoom
from tasks import unanswered
from tasks.image_index import ImageRecord, index_parts, iter_index, pool_sample
from tasks.infer import SHARD_FILE, GenerateSettings, load_detections, load_images, run_teachers
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Look, Teacher

LOOKS_VERSION = 1
LOOKS_FILE = "looks.json"
LOOKS_SAMPLE = 100
"""Images on which they are tried out, at most."""

Shards = Mapping[str, Sequence[Artifact]]
"""Teacher name to its shards."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a teacher's further looks at a sample were like.

    Attributes:
        mirrored: Classes of its vocabulary for which it may look in the mirror.
        zoom: The look enlarged that it may take, of `composition.zoom.SHARES`; None: none.
        faithfulness: `composition.mirror.Faithfulness` as name to number, ``overall`` and by class.
        steadiness: By zoom that was tried, what `composition.zoom.steady` found.
    """

    mirrored: tuple[int, ...] = ()
    zoom: Zoom | None = None
    faithfulness: Mapping[str, float] | None = None
    steadiness: Mapping[str, Sequence[float | None]] | None = None


def find_looks(
    store: Store, teachers: Sequence[Teacher], index: Artifact, shards: Shards, settings: GenerateSettings
) -> Artifact:
    """Finds the further looks that serve each teacher, from looks at a sample of the pool.

    Services are not asked: every look costs a request.

    Args:
        store: Where it goes.
        teachers: The detectors.
        index: The pool's images.
        shards: What they see on the pool.
        settings: How the teachers were run; ``augment`` auto and all try looks out.

    Returns:
        The artifact with ``looks.json``; see `looking`.
    """
    key = digest_of(
        "looks",
        LOOKS_VERSION,
        settings.augment,
        [(teacher.digest, [part.digest for part in shards[teacher.name]]) for teacher in teachers],
    )
    done = store.find("looks", key)
    if done:
        return done
    asked = [teacher for teacher in teachers if not teacher.is_service]
    if settings.augment in ("auto", "all"):
        found = _tried(store, asked, index, shards, settings)
    elif settings.augment == "flip":
        found = {one.name: Tried(mirrored=tuple(range(len(one.manifest.vocabulary)))) for one in asked}
    else:
        found = {one.name: Tried(zoom="zoom60") for one in asked}
    with store.write("looks", key, {teacher.name: teacher.digest for teacher in teachers}) as draft:
        document = {name: asdict(one) for name, one in found.items()}
        draft.file(LOOKS_FILE).write_text(json.dumps(document, indent=1) + "\n")
        draft.counts = {
            "in the mirror": sum(bool(one.mirrored) for one in found.values()),
            "enlarged": sum(bool(one.zoom) for one in found.values()),
        }
    return draft.artifact


find_looks_task = step(find_looks, "further looks")


def looking(teachers: Sequence[Teacher], found: Artifact) -> list[Teacher]:
    """The teachers with the further looks that `find_looks` found for them."""
    document: Mapping[str, Any] = json.loads(found.file(LOOKS_FILE).read_text())
    nothing = asdict(Tried())
    chosen = [document.get(teacher.name, nothing) for teacher in teachers]
    return [
        replace(teacher, mirrored=tuple(one["mirrored"]), zoom=one["zoom"])
        for teacher, one in zip(teachers, chosen, strict=True)
    ]


class Seen(NamedTuple):
    """What teachers see in all their looks.

    Attributes:
        level: Without enlarged parts: a border, which enlarges nothing, can confirm it.
        all: With them.
    """

    level: Shards
    all: Shards


def look_again(
    infer: Callable[..., Mapping[str, Sequence[Artifact]]],
    store: Store,
    teachers: Sequence[Teacher],
    index: Artifact,
    shards: Shards,
    settings: GenerateSettings,
) -> Seen:
    """Takes the further looks and joins them with the first, shard by shard.

    Args:
        infer: Runs teachers: `tasks.fan_out.inference`, or `tasks.infer.run_teachers`.
        store: Where the shards go.
        teachers: The detectors, with the further looks that they take.
        index: The pool's images.
        shards: What they see on the images as they are.
        settings: How they were run.

    Returns:
        What the looks show; a teacher that looks once keeps its shards.
    """
    parts = index_parts(index, settings.shard_size)

    def with_look(look: Look, before: Shards) -> Shards:
        asked = [teacher for teacher in teachers if look in teacher.further_looks]
        again = infer(store, asked, index, settings, look=look) if asked else {}
        joined = {
            teacher.name: [
                _merged(store, teacher, *three, look, settings)
                for three in zip(parts, before[teacher.name], again[teacher.name], strict=True)
            ]
            for teacher in asked
        }
        return {**before, **joined}

    level = seen = with_look("mirror", shards)
    for look in zoom.SHARES:
        seen = with_look(look, seen)
    return Seen(level, seen)


def without_zoom(teachers: Sequence[Teacher]) -> list[Teacher]:
    """The teachers with the looks of `Seen.level`."""
    return [replace(teacher, zoom=None) for teacher in teachers]


def _shown(found: Detections, records: Sequence[ImageRecord], look: Zoom) -> NDArray[np.bool_]:
    """(N,) which boxes a zoom shows as a whole."""
    rows = [(record.image_id, record.width, record.height) for record in records]
    images = np.array(sorted(rows), np.int64).reshape(-1, 3)
    place = np.searchsorted(images[:, 0], found.image_id)
    return zoom.can_show(found.boxes, images[place, 1:], zoom.SHARES[look])


def _merged(
    store: Store,
    teacher: Teacher,
    records: Sequence[ImageRecord],
    first: Artifact,
    other: Artifact,
    look: Look,
    settings: GenerateSettings,
) -> Artifact:
    most = settings.max_detections
    classes = list(teacher.mirrored) if look == "mirror" else []
    key = digest_of("merged", LOOKS_VERSION, look, classes, most, first.digest, other.digest)
    found = store.find("detections", key)
    if found:
        return found
    silent, only_first = unanswered.load(first), list(unanswered.load(other))
    rows, again = load_detections(first), load_detections(other)
    # an answer that is missing in the further look says nothing about a box
    alone = rows[np.isin(rows.image_id, only_first)]
    both = rows[~np.isin(rows.image_id, only_first)]
    again = again[~np.isin(again.image_id, list(silent))]
    if look == "zoom60" or look == "zoom75":
        joined = looks.merged(both, again, most, shown=_shown(both, records, look))
    else:
        joined = looks.merged(both, again, most, classes=teacher.mirrored)
    with store.write("detections", key, {"first": first.digest, look: other.digest}) as draft:
        merged = table.sort(table.concatenate([joined, alone]))
        pq.write_table(table.to_arrow(merged), draft.file(SHARD_FILE))
        draft.counts = {"images": first.counts["images"], "detections": len(merged)}
        if silent:
            unanswered.write(silent, draft.file)
            draft.counts["unanswered"] = len(silent)
    return draft.artifact


def _tried(
    store: Store, teachers: Sequence[Teacher], index: Artifact, shards: Shards, settings: GenerateSettings
) -> dict[str, Tried]:
    """Lets teachers take further looks at a sample; the weaker zoom only where the stronger does not do."""
    sample = pool_sample(index, LOOKS_SAMPLE)
    wanted = set(sample.tolist())
    records = [record for record in iter_index(index) if record.image_id in wanted]

    def look(which: Look, of: Sequence[Teacher]) -> dict[str, Detections]:
        # `looking` has nobody to choose for where nobody may be asked
        again = run_teachers(store, of, index, settings, which, sample, incomplete=True) if of else {}
        return {name: load_images(parts, sample) for name, parts in again.items()}

    first = {one.name: load_images(shards[one.name], sample) for one in teachers}
    border, mirrored = look("second", teachers), look("mirror", teachers)
    found = {}
    for teacher in teachers:
        name, size = teacher.name, len(teacher.manifest.vocabulary)
        one = mirror.faithfulness(first[name], border[name], mirrored[name], size)
        found[name] = Tried(one.classes, faithfulness=_readable(teacher, one), steadiness={})
    left = list(teachers) if settings.augment == "all" else []
    for which in zoom.SHARES:
        enlarged = look(which, left)
        for teacher in left:
            name = teacher.name
            whole = first[name][_shown(first[name], records, which)]
            moves, confirmed = zoom.steady(whole, border[name], enlarged[name])
            told = {**(found[name].steadiness or {}), which: [_rounded(moves), _rounded(confirmed)]}
            chosen = which if zoom.is_steady(moves, confirmed) else None
            found[name] = replace(found[name], zoom=chosen, steadiness=told)
        left = [teacher for teacher in left if not found[teacher.name].zoom]
    return found


def _readable(teacher: Teacher, one: Faithfulness) -> dict[str, float]:
    names = ("overall", *teacher.manifest.vocabulary)
    values = (one.overall, *one.by_class.tolist())
    return {name: round(value, 3) for name, value in zip(names, values, strict=True) if value == value}


def _rounded(value: float) -> float | None:
    """To three digits; None for NaN, which JSON has not."""
    return round(value, 3) if value == value else None
