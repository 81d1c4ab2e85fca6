"""The same shards, whatever runs them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect import flow

from composition.errors import UserError
from tasks.fan_out import RUNNER, WORKERS, Runner, chosen_runner, inference, workers
from tasks.home import Home
from tasks.image_index import build_index, list_images
from tasks.infer import GenerateSettings
from tasks.teachers import find
from tests.flows.conftest import TEACHERS


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("runner", ["threads", "processes", "ray"])
def test_the_same_shards_whatever_runs_them(
    runner: str,
    scenes: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if runner == "ray" and find_spec("prefect_ray") is None:
        pytest.skip("prefect-ray is not installed: `pip install 'detcompose[ray]'`")
    monkeypatch.setenv(WORKERS, "2")
    settings = GenerateSettings(shard_size=10)
    teachers = [find(Home(home), str(TEACHERS / name)) for name in ("digits-low", "digits-high")]

    @flow(persist_result=False)
    def run(place: Home, kind: Runner) -> dict[str, list[dict[str, Any]]]:
        index = build_index(place.store, list_images(scenes / "pool"))
        found = inference(place.store, teachers, index, settings, kind)
        return {
            name: [pq.read_table(shard.file("detections.parquet")).to_pydict() for shard in parts]
            for name, parts in found.items()
        }

    spread = run(Home(home), Runner(runner))
    assert [len(parts) for parts in spread.values()] == [3, 3]
    alone = run(Home(tmp_path / "other"), Runner.SEQUENTIAL)
    for name, parts in spread.items():
        for part, other in zip(parts, alone[name], strict=True):
            assert part.keys() == other.keys()
            for column, values in part.items():
                # a runner divides the processors, and torch rounds by its number of threads
                np.testing.assert_allclose(values, other[column], rtol=1e-4, atol=1e-3)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_runner() == Runner.SEQUENTIAL
    monkeypatch.setenv(RUNNER, "processes")
    assert chosen_runner() == Runner.PROCESSES
    monkeypatch.setenv(RUNNER, "spark")
    with pytest.raises(UserError, match="spark"):
        chosen_runner()
    monkeypatch.setenv(WORKERS, "none")
    with pytest.raises(UserError, match="none"):
        workers()
