"""The compiled engine: a quick import, a cache that may fail, threads, blocks, read-only arrays."""

from __future__ import annotations

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion import Nms, SoftNms, Wbf
from composition.fusion.blocks import in_blocks, split

ROOT = Path(__file__).parents[2]
FUSE = """
import numpy as np
from composition import detections
from composition.fusion import Nms
print(Nms().fuse([detections.make([1], [[0, 0, 5, 5]], [0.5], [0])]).detections.score.tolist())
"""


def _run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _tables(rows: int, images: int) -> list[Detections]:
    random = np.random.default_rng(rows)
    tables = []
    for _ in range(2):
        low = random.uniform(0, 50, (rows, 2))
        tables.append(
            detections.sort(
                detections.make(
                    random.integers(0, images, rows),
                    np.hstack([low, low + random.uniform(5, 50, (rows, 2))]),
                    random.random(rows),
                    random.integers(0, 3, rows),
                )
            )
        )
    return tables


def test_importing_fusion_does_not_import_numba() -> None:
    code = "import sys, composition.fusion; print('numba' in sys.modules)"
    assert _run(code) == "False"


def test_the_machine_code_is_kept_where_numba_is_told_to(tmp_path: Path) -> None:
    assert _run(FUSE, NUMBA_CACHE_DIR=str(tmp_path)) == "[0.5]"
    assert list(tmp_path.rglob("*.nbi"))
    assert _run(FUSE, NUMBA_CACHE_DIR=str(tmp_path)) == "[0.5]"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where nobody can write")
def test_it_works_where_nothing_can_be_kept() -> None:
    locator = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}  # no other place to fall back on
    assert _run(FUSE, NUMBA_CACHE_DIR="/proc/nowhere", **locator) == "[0.5]"


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_it_works_on_a_full_disk(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # no file may hold a byte
    assert _run(full + FUSE.replace("print(", "assert [0.5] == ("), NUMBA_CACHE_DIR=str(tmp_path)) == ""


def test_several_threads_may_fuse_at_once() -> None:
    tables = _tables(3000, 50)
    expected = Wbf().fuse(tables)
    with ThreadPoolExecutor(4) as threads:
        for fused in threads.map(lambda _: Wbf().fuse(tables), range(8)):
            np.testing.assert_array_equal(fused.detections.boxes, expected.detections.boxes)
            np.testing.assert_array_equal(fused.scores, expected.scores)


@pytest.mark.parametrize("fuser", [Nms(), SoftNms(), Wbf()], ids=repr)
def test_read_only_and_strided_columns(fuser: Nms | SoftNms | Wbf) -> None:
    """What Arrow gives is read-only, and a column may be a view of something wider."""
    table = _tables(200, 4)[0]
    wide = np.zeros((len(table), 10), np.float32)
    wide[:, 2:6], wide[:, 7] = table.boxes, table.score
    wide.flags.writeable = False
    view = Detections(table.image_id, wide[:, 2:6], wide[:, 7], table.class_id, table.spread)
    np.testing.assert_array_equal(fuser.fuse([view]).detections.boxes, fuser.fuse([table]).detections.boxes)


def test_blocks_cut_between_images_and_lose_nothing() -> None:
    tables = _tables(5000, 40)
    blocks = split(tables, 500)
    assert len(blocks) > 10
    ids = [set(np.concatenate([part.image_id for part in block]).tolist()) for block in blocks]
    assert all(max(low) < min(high) for low, high in itertools.pairwise(ids))
    for teacher, part in enumerate(tables):
        whole = detections.concatenate(block[teacher] for block in blocks)
        np.testing.assert_array_equal(whole.score, part.score)


def test_blocks_of_one_image_of_uneven_and_of_silent_teachers() -> None:
    (table, _) = _tables(3000, 1)
    assert len(split([table], 10)) == 1
    silent, few = detections.empty(), table[:1]
    assert len(in_blocks([silent, few], Nms().fuse, rows=1)) == 1
    assert len(in_blocks([silent, silent], Nms().fuse, rows=1)) == 0


def test_a_broken_row_is_counted_in_the_whole_table() -> None:
    tables = _tables(5000, 40)
    tables[1].score[4321] = 2
    image = tables[1].image_id[4321]
    with pytest.raises(UserError, match=rf"teacher 2 of 2, row 4321 \(image {image}\)"):
        in_blocks(tables, Nms()._fuse, rows=500)
