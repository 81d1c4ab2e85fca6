"""Looking in the mirror, too: for which classes of which teacher, and the mean of both looks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq

from composition import detections as table
from composition import mirror
from composition.mirror import Faithfulness
from tasks import unanswered
from tasks.image_index import pool_sample
from tasks.infer import SHARD_FILE, GenerateSettings, load_detections, load_images, run_teachers
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

MIRROR_VERSION = 1
MIRROR_FILE = "mirror.json"
MIRROR_SAMPLE = 100
"""Images on which it is tried out, at most."""


def find_mirrors(
    store: Store,
    teachers: Sequence[Teacher],
    index: Artifact,
    shards: Mapping[str, Sequence[Artifact]],
    settings: GenerateSettings,
) -> Artifact:
    """Finds the classes that a mirror does not change, from further looks at a sample of the pool.

    Services are not asked: every look costs a request.

    Args:
        store: Where it goes.
        teachers: The detectors.
        index: The pool's images.
        shards: Teacher name to its shards on the pool.
        settings: How the teachers were run; ``augment`` flip trusts the mirror for all classes.

    Returns:
        The artifact with ``mirror.json``; see `in_the_mirror`.
    """
    key = digest_of(
        "mirror",
        MIRROR_VERSION,
        settings.augment,
        [(teacher.digest, [part.digest for part in shards[teacher.name]]) for teacher in teachers],
    )
    done = store.find("mirrors", key)
    if done:
        return done
    asked = [teacher for teacher in teachers if not teacher.is_service]
    found: dict[str, dict[str, float]] = {}
    chosen = {teacher.name: tuple(range(len(teacher.manifest.vocabulary))) for teacher in asked}
    if settings.augment == "auto" and asked:
        sample = pool_sample(index, MIRROR_SAMPLE)
        looks = {
            look: run_teachers(store, asked, index, settings, look, sample, incomplete=True)
            for look in ("second", "mirror")
        }
        for teacher in asked:
            first, border, other = (
                load_images(parts[teacher.name], sample)
                for parts in (shards, looks["second"], looks["mirror"])
            )
            one = mirror.faithfulness(first, border, other, len(teacher.manifest.vocabulary))
            chosen[teacher.name] = one.classes
            found[teacher.name] = _readable(teacher, one)
    with store.write("mirrors", key, {teacher.name: teacher.digest for teacher in teachers}) as draft:
        document = {"mirrored": chosen, "faithfulness": found}
        draft.file(MIRROR_FILE).write_text(json.dumps(document, indent=1) + "\n")
        draft.counts = {name: len(classes) for name, classes in chosen.items()}
    return draft.artifact


find_mirrors_task = step(find_mirrors, "mirror")


def in_the_mirror(teachers: Sequence[Teacher], found: Artifact) -> list[Teacher]:
    """The teachers, looking in the mirror for the classes that `find_mirrors` found."""
    mirrored = json.loads(found.file(MIRROR_FILE).read_text())["mirrored"]
    return [replace(teacher, mirrored=tuple(mirrored.get(teacher.name, ()))) for teacher in teachers]


def merge_shards(
    store: Store,
    teachers: Sequence[Teacher],
    shards: Mapping[str, Sequence[Artifact]],
    mirrored: Mapping[str, Sequence[Artifact]],
    settings: GenerateSettings,
) -> dict[str, list[Artifact]]:
    """The mean of both looks, shard by shard.

    Args:
        store: Where it goes.
        teachers: The detectors, with the classes for which they look in the mirror.
        shards: Teacher name to what it sees on the pool.
        mirrored: The same in the mirror, for those that look there.
        settings: How they were run.

    Returns:
        Teacher name to its shards; those of a teacher that does not look in the mirror are its own.
    """
    result = {name: list(parts) for name, parts in shards.items()}
    for teacher in teachers:
        if teacher.mirrored:
            pairs = zip(shards[teacher.name], mirrored[teacher.name], strict=True)
            result[teacher.name] = [_merged(store, teacher, *pair, settings) for pair in pairs]
    return result


def _merged(
    store: Store, teacher: Teacher, first: Artifact, other: Artifact, settings: GenerateSettings
) -> Artifact:
    most = settings.max_detections
    key = digest_of("merged", MIRROR_VERSION, list(teacher.mirrored), most, first.digest, other.digest)
    found = store.find("detections", key)
    if found:
        return found
    silent, only_first = unanswered.load(first), list(unanswered.load(other))
    rows, again = load_detections(first), load_detections(other)
    # an answer that is missing in the mirror says nothing about a box
    alone = rows[np.isin(rows.image_id, only_first)]
    both = rows[~np.isin(rows.image_id, only_first)]
    again = again[~np.isin(again.image_id, list(silent))]
    merged = table.sort(table.concatenate([mirror.merged(both, again, teacher.mirrored, most), alone]))
    with store.write("detections", key, {"first": first.digest, "mirror": other.digest}) as draft:
        pq.write_table(table.to_arrow(merged), draft.file(SHARD_FILE))
        draft.counts = {"images": first.counts["images"], "detections": len(merged)}
        if silent:
            unanswered.write(silent, draft.file)
            draft.counts["unanswered"] = len(silent)
    return draft.artifact


def _readable(teacher: Teacher, one: Faithfulness) -> dict[str, float]:
    names = ("overall", *teacher.manifest.vocabulary)
    values = (one.overall, *one.by_class.tolist())
    return {name: round(value, 3) for name, value in zip(names, values, strict=True) if value == value}
