"""Runs in a real worker: they end, fail, wait for a person, are cancelled, and go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.input.actions import read_flow_run_input

from composition import label_space as spaces
from model_zoo import bundle
from tests.flows.conftest import TEACHERS, small_recipe
from tests.flows.deployments.conftest import System, wait_until

pytestmark = pytest.mark.usefixtures("at_the_server")


def recipe_of(scenes: Path, name: str, **changes: Any) -> dict[str, Any]:
    # no evaluation: measuring costs would be most of the time
    return small_recipe(scenes, name=name, evaluate=[], calibrate={"method": "none"}, **changes)


def processes_of(run: UUID) -> list[int]:
    """Processes that carry the run's id in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(run) in (folder / "environ").read_text(errors="replace"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def statuses(home: Path) -> dict[str, str]:
    """MLflow run name to status."""
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    ids = [one.experiment_id for one in client.search_experiments()]
    return {run.info.run_name: run.info.status for run in client.search_runs(ids, max_results=500)}


def leftovers(home: Path) -> list[Path]:
    return [path for path in (home / "store").rglob("*.partial") if path.is_dir()]


def test_a_run_shows_what_it_does(system: System, scenes: Path) -> None:
    run = system.start("compose/compose", recipe=recipe_of(scenes, "shown"), runner="threads", review="off")
    done = system.wait(run, "Completed")
    assert done.name == "compose shown"
    names = {task.name for task in system.tasks(run)}
    assert {f"infer {n}/3: digits-low, digits-high" for n in (1, 2, 3)} <= names
    assert {"calibrate", "label", "diagnose", "train shown", "report"} <= names
    artifacts = system.artifacts(run)
    assert {"label-space", "pseudo-labels", "report-shown"} <= set(artifacts)
    rows = json.loads(str(artifacts["label-space"].data))
    assert [row["class"] for row in rows][:2] == ["zero", "one"]
    assert rows[4] == {"class": "four", "digits-low": "same: four", "digits-high": "same: four"}
    assert "| labels |" in str(artifacts["pseudo-labels"].data)
    assert (system.home / "reports" / "shown" / "report.html").is_file()


def test_a_failure_says_what_to_do(system: System, scenes: Path) -> None:
    run = system.start(
        "compose/compose", recipe={**recipe_of(scenes, "wrong"), "teachers": ["nobody", "none"]}
    )
    state = system.wait(run, "Failed").state
    assert state is not None
    assert "there is no teacher 'nobody'" in str(state.message)
    assert "Add one with `detcompose teacher add`." in str(state.message)
    assert "**What to do:**" in str(system.artifacts(run)["what-to-do"].data)
    with get_client(sync_client=True) as client:
        wait_until(lambda: any(log.level >= 40 for log in client.read_logs()), 30, "the log")
        (line, *_) = [log.message for log in client.read_logs() if "nobody" in log.message]
    assert line.startswith("there is no teacher")


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """digits-high with other names for the digits that digits-low knows, too."""
    folder = tmp_path / "renamed"
    source = TEACHERS / "digits-high"
    manifest = bundle.read(source)
    names = {"four": "quattro", "five": "cinque", "six": "sei"}
    bundle.write(
        folder,
        name="italian",
        adapter=manifest.adapter,
        vocabulary=tuple(names.get(name, name) for name in manifest.vocabulary),
        input=manifest.input,
        output=manifest.output,
        files={file: source / file for file in manifest.files},
        provenance={},
        license="unknown",
    )
    return folder


def test_a_person_decides_once(system: System, scenes: Path, renamed: Path) -> None:
    teachers = [str(TEACHERS / "digits-low"), str(renamed)]
    recipe = {**recipe_of(scenes, "asked"), "teachers": teachers}
    run = system.start("compose/compose", recipe=recipe)
    state = system.wait(run, "Suspended").state
    assert state is not None
    # the server has the form a moment after the state
    with get_client(sync_client=True) as client:
        keys = state.state_details.run_input_keyset or {}
        wait_until(lambda: bool(_input(run, keys["schema"])), 30, "the form")
        schema = _input(run, keys["schema"])
        asked = {name: field["title"] for name, field in schema["properties"].items()}
        wanted = [name for name, title in asked.items() if "sei' of italian is the same as 'six'" in title]
        assert wanted, asked
        assert "boxes" in schema["properties"][wanted[0]]["description"]
        answers = {name: "accept" if name in wanted else "reject" for name in asked}
        assert client.resume_flow_run(run, run_input=answers).status.value == "ACCEPT"
    system.wait(run, "Completed")
    decided = json.loads((system.home / "label-space-decisions.json").read_text())
    assert sum(entry["accepted"] for entry in decided.values()) == 1
    (path,) = (system.home / "label-spaces").glob("asked-*.yaml")
    vocabularies = {folder.name: bundle.read(folder).vocabulary for folder in (TEACHERS / "digits-low",)}
    vocabularies["italian"] = bundle.read(renamed).vocabulary
    agreed = spaces.parse_yaml(path.read_text(), str(path), vocabularies)
    assert "six" in agreed.classes
    assert "sei" not in agreed.classes

    again = system.start("compose/compose", recipe={**recipe, "name": "unasked"})
    system.wait(again, "Completed")
    assert "questions" not in system.artifacts(again)


def test_nobody_answers_in_time(system: System, scenes: Path, renamed: Path) -> None:
    (system.home / "label-space-decisions.json").unlink(missing_ok=True)
    recipe = {**recipe_of(scenes, "late"), "teachers": [str(TEACHERS / "digits-low"), str(renamed)]}
    run = system.start("compose/compose", recipe=recipe, wait_hours=2 / 3600)
    state = system.wait(run, "Failed").state
    assert state is not None
    assert "never resumed" in str(state.message)


def _input(run: UUID, key: str) -> Any:
    return read_flow_run_input(key, flow_run_id=run)


def test_cancelled_during_inference_it_goes_on_at_the_next_shard(
    system: System, scenes: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(8):
        for file in sorted((scenes / "pool").glob("*.jpg")):
            os.link(file, pool / f"{number}-{file.name}")
    recipe = recipe_of(scenes, "stopped", images={"source": str(pool)}, generate={"shard_size": 2})
    detections = system.home / "store" / "detections"
    before = len(list(detections.glob("[!.]*"))) if detections.exists() else 0
    run = system.start("compose/compose", recipe=recipe, review="off")
    wait_until(
        lambda: detections.exists() and len(list(detections.glob("[!.]*"))) >= before + 3, 240, "a shard"
    )
    assert processes_of(run)
    system.cancel(run)
    system.wait(run, "Cancelled")
    wait_until(lambda: not processes_of(run), 60, "the end of its processes")
    shards = {path: path.stat().st_mtime_ns for path in detections.glob("[!.]*/detections.parquet")}
    assert len(shards) < before + 192
    assert not leftovers(system.home)
    assert statuses(system.home)["stopped"] == "KILLED"

    again = system.start("compose/compose", recipe=recipe, limit=24, review="off", runner="threads")
    system.wait(again, "Completed")
    after = {path: path.stat().st_mtime_ns for path in detections.glob("[!.]*/detections.parquet")}
    assert {path: after[path] for path in shards} == shards


def test_cancelled_during_training_it_goes_on_from_the_checkpoint(system: System, scenes: Path) -> None:
    recipe = recipe_of(scenes, "halted")
    recipe["student"] = {**recipe["student"], "epochs": 2000, "image_size": 64}
    work = system.home / "store" / "work"
    run = system.start("compose/compose", recipe=recipe, review="off")
    wait_until(lambda: any(work.glob("students-*/run/checkpoint.safetensors")), 300, "a checkpoint")
    system.cancel(run)
    system.wait(run, "Cancelled")
    wait_until(lambda: not processes_of(run), 60, "the end of its processes")
    assert statuses(system.home)["halted"] == "KILLED"
    assert not leftovers(system.home)

    again = system.start("compose/compose", recipe=recipe, review="off")
    (log,) = work.glob("students-*/run/training.log")
    wait_until(lambda: "resumed at step" in log.read_text(), 240, "the training that goes on")
    system.cancel(again)
    system.wait(again, "Cancelled")
    wait_until(lambda: not processes_of(again), 60, "the end of its processes")
