"""A real `detcompose compose` is killed with SIGKILL, run again, and ends in the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL

from tests.flows.conftest import read, small_recipe

COMMAND = [sys.executable, "-c", "from flows.cli.main import main; main()"]
ROOT = Path(__file__).resolve().parents[2]


def _start(home: Path, recipe: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DETCOMPOSE_HOME": str(home),
        # the session's server, so that a killed run leaves no server of its own behind
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [*COMMAND, "compose", str(recipe), "--json"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


def _kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _stamps(detections: Path) -> dict[str, int]:
    found = detections.glob("[!.]*/detections.parquet")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def _contents(home: Path) -> dict[str, str]:
    """Digests of all files that a composition consists of, by kind, key and name."""
    store = home / "store"
    kinds = ("detections", "pseudo-labels", "students", "evaluations")
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in sorted((store / kind).rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.mark.usefixtures("prefect_server")
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    content = small_recipe(scenes, generate={"shard_size": 4})
    content["student"] |= {"epochs": 3, "image_size": 64}
    recipe.write_text(yaml.safe_dump(content))
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    detections = killed / "store" / "detections"
    _kill_when(_start(killed, recipe), lambda: len(list(detections.glob("[!.]*"))) >= 3)
    shards = _stamps(detections)

    work = killed / "store" / "work"
    _kill_when(_start(killed, recipe), lambda: any(work.glob("students-*/history.json")))
    assert not list((killed / "store" / "students").glob("[!.]*"))
    after = _stamps(detections)
    assert {name: after[name] for name in shards} == shards, "finished shards are not made again"

    _finish(_start(killed, recipe))
    _finish(_start(whole, recipe))
    assert _contents(killed) == _contents(whole)
    assert len(_contents(whole)) > 12
    assert not list(work.glob("*")), "checkpoints go when the student is there"
    record = read(killed / "reports" / "digits" / "composition.json")
    assert record["composition"] == read(whole / "reports" / "digits" / "composition.json")["composition"]
