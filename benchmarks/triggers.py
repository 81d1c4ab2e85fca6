"""How soon a new teacher starts a run, and what it costs to find that nothing has changed.

    python -m benchmarks.triggers [--repeats N] [--json]

On real servers (`detcompose up` in a home of its own): a teacher is registered, a
recipe that follows it is deployed and composed once. Then, each so many times:

* ``webhook_seconds``: from the call that moves an alias in the registry to the moment at which
  Prefect has made the run, by way of MLflow's webhook and the relay, its pause for bursts included;
* ``picked_up_seconds`` and ``finished_seconds``: from there to the run's first line and to its end, on the
  worker; as a process it starts by importing everything, and it finds nothing to do;
* ``no_op_seconds``: `detcompose recompose`, from the shell and back, which finds nothing to do.

Writes ``benchmarks/results/triggers.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from demo.scenes import make_scenes
from flows.services.connection import join_running
from flows.services.place import Place
from tasks import tracking
from tasks.home import Home
from tasks.registration import register_teacher
from tasks.teachers import find

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "triggers.json"
COMMAND = [sys.executable, "-c", "from flows.cli.main import main; main()"]
PATIENCE = 600.0
WEBHOOK_CACHE_SECONDS = 60
"""So long MLflow's server may not know of a webhook that was registered meanwhile."""


def run(*words: str) -> tuple[float, str]:
    """Runs one of our commands; seconds that it took and what it printed."""
    began = time.perf_counter()
    done = subprocess.run([*COMMAND, *words], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return time.perf_counter() - began, done.stdout


def wait_for(condition: Callable[[], Any], pause: float = 0.05) -> Any:
    """Waits until something is true, and returns it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("it never came")
        time.sleep(pause)
    return found


def recompositions(client: SyncPrefectClient) -> dict[Any, FlowRun]:
    """All runs of the flow `recompose`, by id."""
    wanted = FlowFilter(name=FlowFilterName(any_=["recompose"]))
    return {one.id: one for one in client.read_flow_runs(flow_filter=wanted)}


def write_recipe(folder: Path) -> Path:
    """A composition that takes seconds: one epoch of a tiny student on 24 scenes."""
    make_scenes(folder / "pool", images=24, seed=1, labelled=False, part="pool")
    recipe = {
        "name": "triggered",
        "teachers": ["teachers/*@champion"],
        "images": {"source": str(folder / "pool")},
        "calibrate": {"method": "none"},
        "student": {"architecture": "yolox_pico", "image_size": 96, "epochs": 1, "flip": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def webhook(client: SyncPrefectClient, home: Home, number: int) -> dict[str, float]:
    """Moves an alias and follows what comes of it."""
    before = recompositions(client)
    connection = tracking.client(home)
    began = datetime.datetime.now(datetime.UTC)
    connection.set_registered_model_alias("teachers.low", f"looked-at-{number}", "1")

    def made() -> list[FlowRun]:
        return [one for identity, one in recompositions(client).items() if identity not in before]

    (new,) = wait_for(made)
    ended = wait_for(
        lambda: (found := client.read_flow_run(new.id)).state and found.state.is_final() and found, pause=0.5
    )
    assert ended.state.name == "Completed", ended.state.message
    moments = {"webhook": new.created, "picked_up": ended.start_time, "finished": ended.end_time}
    return {f"{name}_seconds": round((at - began).total_seconds(), 2) for name, at in moments.items()}


def measure(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Everything, on servers that run in ``DETCOMPOSE_HOME``."""
    home = Home.default()
    ports = [word for name in ("prefect", "mlflow", "relay") for word in (f"--{name}-port", "0")]
    run("up", "--detach", *ports)
    started = time.monotonic()
    join_running(Place(home))
    recipe = str(write_recipe(folder))
    register_teacher(home, find(home, str(ROOT / "demo" / "teachers" / "digits-low")), "low")
    run("recompose", recipe)
    run("deploy", "--recompose", recipe)
    time.sleep(max(0.0, started + WEBHOOK_CACHE_SECONDS + 1 - time.monotonic()))
    rows = []
    address = {PREFECT_API_URL: os.environ["PREFECT_API_URL"]}
    with temporary_settings(address), get_client(sync_client=True) as client:
        for number in range(repeats):
            load = round(os.getloadavg()[0], 1)
            row: dict[str, Any] = {"load_before": load, **webhook(client, home, number)}
            seconds, printed = run("recompose", recipe, "--json")
            assert json.loads(printed)["action"] == "nothing", printed
            rows.append({**row, "no_op_seconds": round(seconds, 2)})
    return rows


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    for name in list(os.environ):
        if name.startswith(("PREFECT", "MLFLOW")):
            del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETCOMPOSE_HOME"] = str(Path(folder) / "home")
        try:
            rows = measure(Path(folder), options.repeats)
        finally:
            run("down")
    names = [name for name in rows[0] if name.endswith("_seconds")]
    results = {
        **{name: statistics.median(row[name] for row in rows) for name in names},
        "runs": rows,
        "command": " ".join(["python -m benchmarks.triggers", *sys.argv[1:]]),
        "date": f"{datetime.date.today()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("detcompose", "prefect", "mlflow", "sqlalchemy")},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results))
        return
    for name in names:
        print(f"{name:20} {results[name]:6.1f} s")


if __name__ == "__main__":
    main()
