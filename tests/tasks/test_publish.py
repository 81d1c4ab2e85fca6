"""What a report is gathered from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from composition.pseudo_labels import POSITIVE
from tasks.image_index import ImageRecord
from tasks.label import load_labels
from tasks.publish import _label_sources, _readable
from tasks.store import Store
from tests.tasks.pools import make_pool
from tests.tasks.test_aggregate import SPACE, run


def test_every_label_is_counted_with_those_that_agreed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, _, labels = run(store, make_pool(store, SPACE, images=12, shard_size=5), keep=0.5)
    names = list(SPACE.teachers)
    expected: dict[str, Counter[str]] = {name: Counter() for name in SPACE.classes}
    rows = load_labels(labels)
    for class_id, kind, mask in zip(rows.class_id, rows.kind, rows.teachers, strict=True):
        agreed = " + ".join(name for bit, name in enumerate(names) if int(mask) >> bit & 1)
        expected[SPACE.classes[class_id]][agreed if kind == POSITIVE else "ignored"] += 1
    assert _label_sources(labels, SPACE.classes, names) == expected
    assert any(" + " in source for counts in expected.values() for source in counts)


def test_an_image_that_is_gone_is_not_shown(tmp_path: Path) -> None:
    """A report after hours of training does not fail for a picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "there.png")
    records = [
        ImageRecord(number, name, str(tmp_path / name), 12, 8, "")
        for number, name in enumerate(("gone.png", "there.png"))
    ]
    ((record, image),) = _readable(records)
    assert record.path == "there.png"
    assert (image == pixels).all()
