"""Costs: what is timed, what is kept, what sums up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from composition import label_space as spaces
from composition.fusion import Expert
from demo.scenes import make_scenes
from model_zoo.profiling import Profile
from tasks import teachers
from tasks.benchmark_speed import (
    ENSEMBLE,
    LEAST,
    WARM_UP,
    Cost,
    Speed,
    cost_from_dict,
    load_cost,
    measure_cost,
    measure_costs,
    time_calls,
    together,
    with_costs,
)
from tasks.evaluate import load_dataset
from tasks.home import Home

LOW = Path(__file__).resolve().parents[2] / "demo" / "teachers" / "digits-low"


def test_calls_are_warmed_up_and_divided_by_the_batch() -> None:
    calls = []

    def call() -> None:
        time.sleep(0.05 if len(calls) < WARM_UP else 0.008)
        calls.append(1)

    speed = time_calls(call, batch=4, seconds=0.0)
    assert len(calls) == WARM_UP + LEAST
    assert speed.calls == LEAST
    assert 2.0 <= speed.low <= speed.median <= speed.high < 10


def test_a_detector_is_measured_once_a_machine(tmp_path: Path) -> None:
    make_scenes(tmp_path / "scenes", images=4, seed=3, part="evaluation")
    dataset = load_dataset(tmp_path / "scenes" / "scenes.json")
    home = Home(tmp_path / "home")
    detector = teachers.find(home, str(LOW))
    first = measure_cost(home.store, detector, dataset, threads=1, seconds=0.05)
    cost = load_cost(first)
    assert cost_from_dict(cost.to_dict()) == cost
    assert (cost.threads, cost.device) == (1, "cpu")
    assert (cost.single.batch, cost.batched.batch) == (1, 8)
    assert cost.single.median > 0
    assert cost.profile.parameters is not None
    written = first.file("cost.json").stat().st_mtime_ns
    again = measure_cost(home.store, detector, dataset, threads=1, seconds=0.05)
    assert again.file("cost.json").stat().st_mtime_ns == written
    other = measure_cost(home.store, detector, dataset, threads=2, seconds=0.05)
    assert other.digest != first.digest


def test_services_are_not_timed(tmp_path: Path) -> None:
    """Their time is that of another machine, and every look costs a request."""
    make_scenes(tmp_path / "scenes", images=2, seed=3, part="evaluation")
    dataset = load_dataset(tmp_path / "scenes" / "scenes.json")
    home = Home(tmp_path / "home")
    detector = teachers.find(home, str(LOW))
    remote = replace(
        detector, name="remote", manifest=detector.manifest.model_copy(update={"adapter": "http"})
    )
    space = spaces.build({one.name: one.manifest.vocabulary for one in (detector, remote)})
    costs = measure_costs(home.store, dataset, [detector, remote], [], space, Expert())
    assert list(costs) == ["digits-low"]


def cost(parameters: int | None, milliseconds: float) -> Cost:
    speed = Speed(1, milliseconds, milliseconds - 1, milliseconds + 1, 10)
    return Cost(Profile(parameters, 5, 100), speed, speed, 2, "cpu", "box")


def test_an_ensemble_costs_its_members_and_the_fusion() -> None:
    both = together([cost(3, 10), cost(4, 20)], 0.5, [1, 1])
    assert (both.single.low, both.single.median, both.single.high) == (28.5, 30.5, 32.5)
    assert both.profile == Profile(7, 10, 200)
    assert together([cost(None, 1), cost(4, 2)], 0, [1, 1]).profile.parameters is None


def test_rows_get_the_cost_of_their_detector() -> None:
    rows = [
        {"name": "a", "role": "teacher"},
        {"name": "ensemble (wbf)", "role": "ensemble"},
        {"name": "unknown", "role": "baseline"},
    ]
    costs = {"a": cost(1, 1), ENSEMBLE: cost(2, 2)}
    found = with_costs(rows, costs)
    assert found[0]["cost"]["profile"]["parameters"] == 1
    assert found[1]["cost"]["profile"]["parameters"] == 2
    assert "cost" not in found[2]
    assert "cost" not in rows[0]


def test_unreadable_images_are_an_error(tmp_path: Path) -> None:
    from composition.errors import UserError
    from tasks.benchmark_speed import load_images

    make_scenes(tmp_path / "scenes", images=2, seed=3, part="evaluation")
    dataset = load_dataset(tmp_path / "scenes" / "scenes.json")
    for row in dataset.coco["images"]:
        (dataset.root / row["file_name"]).write_bytes(b"")
    with pytest.raises(UserError, match="none of 2 images can be read"):
        load_images(dataset)
