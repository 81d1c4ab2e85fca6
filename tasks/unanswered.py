"""Images on which a teacher has not spoken, and asking for them again.

A service may fail for single images; a file that cannot be read any more is
the same for every teacher.

A shard with such images is kept under a key of its own for every attempt: what
was answered is never asked (nor paid for) twice, and whatever is made of an
incomplete shard has another digest than what is made of the complete one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized

import pyarrow as pa
import pyarrow.parquet as pq

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters.base import Detector, Image, UnansweredError
from tasks.progress import Tracker
from tasks.store import Artifact, Store, digest_of

Job = Callable[[], Mapping[str, Artifact]]
"""Makes a shard, or waits for it: teacher name to its artifact."""
UNANSWERED_FILE = "unanswered.parquet"
"""Beside the detections of a shard, only where there are such images."""
_SCHEMA = pa.schema([("image_id", pa.int64()), ("reason", pa.string())])


def ask(detector: Detector, images: Sequence[Image]) -> tuple[Detections, dict[int, str]]:
    """`Detector.predict`, with the images that got no answer (position to reason)."""
    try:
        return detector.predict(images), {}
    except UnansweredError as error:
        return error.found, error.reasons


def find(store: Store, key: str) -> tuple[Artifact | None, int]:
    """The most complete version of a shard.

    Args:
        store: Where shards are.
        key: Key of the complete shard.

    Returns:
        The complete shard, else the last incomplete one, else None; and how
        many incomplete ones there are, which nobody asks of a complete one.
    """
    complete = store.find("detections", key)
    if complete:
        return complete, 0
    attempts = 0
    latest = None
    while found := store.find("detections", attempt_key(key, attempts)):
        latest, attempts = found, attempts + 1
    return latest, attempts


def gather(
    names: Sequence[str],
    parts: Sequence[Sized],
    first: Sequence[Job],
    again: Callable[[int], Job],
    limit: float,
    tracker: Tracker,
) -> dict[str, list[Artifact]]:
    """The shards of teachers; what they did not answer is asked once more.

    Args:
        names: The teachers.
        parts: The images of every shard.
        first: For every shard, what waits for it or makes it.
        again: Starts a shard once more, by its number; what comes back waits for it.
        limit: Share of the images that may be without an answer in the end, 0 to 1.
        tracker: Told how many images are done.

    Returns:
        Teacher name to its shards.

    Raises:
        UserError: Nobody answers at all, or too little.
    """
    rounds: list[Mapping[str, Artifact]] = []
    done = 0
    for job, part in zip(first, parts, strict=True):
        rounds.append(job())
        for name in names:
            if rounds[-1][name].counts.get("unanswered") == len(part):
                # nobody is at home: the other shards would only wait in vain
                check(name, [rounds[-1][name]], len(part), 0.0)
        done += len(part)
        tracker.update(done)
    # whoever was busy may have time by now
    silent = [
        number
        for number, round_ in enumerate(rounds)
        if any(shard.counts.get("unanswered") for shard in round_.values())
    ]
    for number, job in [(number, again(number)) for number in silent]:
        rounds[number] = job()
    found = {name: [round_[name] for round_ in rounds] for name in names}
    for name, artifacts in found.items():
        check(name, artifacts, done, limit)
    return found


def attempt_key(key: str, attempt: int) -> str:
    """Key of an incomplete version of a shard."""
    return digest_of("unanswered", key, attempt)


def load(shard: Artifact) -> dict[int, str]:
    """Ids of a shard's images without an answer, with the reasons."""
    if not shard.counts.get("unanswered"):
        return {}
    rows = pq.read_table(shard.file(UNANSWERED_FILE))
    return dict(zip(rows.column("image_id").to_pylist(), rows.column("reason").to_pylist(), strict=True))


def write(reasons: Mapping[int, str], path_of: Callable[[str], object]) -> None:
    """Writes the ids and reasons beside a shard that is being written."""
    rows = {"image_id": list(reasons), "reason": list(reasons.values())}
    pq.write_table(pa.table(rows, schema=_SCHEMA), path_of(UNANSWERED_FILE))


def images_of(shards: Mapping[str, Sequence[Artifact]]) -> dict[str, list[int]]:
    """Teacher to the ids of the images on which it has not spoken, if there are any."""
    ids = {name: sorted(image for shard in parts for image in load(shard)) for name, parts in shards.items()}
    return {name: images for name, images in ids.items() if images}


def joined(
    before: Artifact | None, found: Detections, load_rows: Callable[[Artifact], Detections]
) -> Detections:
    """New answers together with those of an earlier attempt, sorted."""
    return table.sort(table.concatenate([*([load_rows(before)] if before else []), found]))


def check(name: str, shards: Sequence[Artifact], images: int, limit: float) -> None:
    """Stops where a teacher left more images unanswered than may be.

    Args:
        name: The teacher.
        shards: Its shards, or those so far.
        images: How many images they have.
        limit: Share of the images that may be without an answer, 0 to 1.

    Raises:
        UserError: Says how many, the first reason, and that nothing is lost.
    """
    silent = {image: reason for shard in shards for image, reason in load(shard).items()}
    first = next(iter(silent.values()), "")
    if len(silent) > limit * images:
        raise UserError(
            f"teacher {name} did not answer for {len(silent)} of {images} images: {first}",
            "Run again when the cause is gone: its answers are kept, only these images are asked again.",
        )
