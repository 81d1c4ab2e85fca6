"""What orchestration costs: the demo composition through Prefect and MLflow against its plain functions.

    python -m benchmarks.overhead [--epochs N] [--images N] [--repeats N] [--evaluation] [--json]

Both ways run the same steps (`flows.compose`), each in a process and a home of its
own, in turns (A B, B A, ...). Plain: Prefect's tasks are called as the functions that
they wrap, the tracker records nothing, no version is registered. Orchestrated: what
`detcompose compose` does, with Prefect's temporary server (its start and end are
counted) and MLflow on SQLite. Both must end in the same student, to the byte.

Times begin after the imports. ``overhead_percent`` is the median of the pairs' differences
in wall time, as a share of the plain time. ``percent_of_demo`` is the same difference as
a share of the demo as it is shipped, `DEMO_SECONDS`; ``start_seconds`` of it are the start of
Prefect's temporary server and the making of MLflow's database, which servers that run save.
``processor_percent`` compares
the processor time of the main processes, which other work on the machine disturbs less.
Writes ``benchmarks/results/overhead.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "overhead.json"
DEMO_SECONDS = 260.0
"""`make demo` after installing on 2 idle cores, see README.md."""


class SilentRun:
    """A tracker that records nothing."""

    run_id = "not tracked"
    page = None

    @contextmanager
    def child(self, step: str) -> Iterator[SilentRun]:
        """Another one."""
        yield self

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def compose_plainly(recipe: Any, home: Any) -> dict[str, Any]:
    """The composition without Prefect and MLflow."""
    from types import SimpleNamespace

    from prefect import Task

    from flows import compose as module
    from flows.plan import make_plan

    Task.__call__ = lambda self, *a, **k: self.fn(*a, **k)  # type: ignore[assignment, method-assign]
    version = SimpleNamespace(version=SimpleNamespace(name="not registered", version=0))
    module.register_version = lambda *_, **__: version  # type: ignore[assignment, misc]
    run: Any = SilentRun()
    return module._run_steps(home, make_plan(recipe, home), run, None)


def start_servers(home: Any) -> None:
    """What `compose` does first of all: Prefect's temporary server, MLflow's new database."""
    from prefect.client.orchestration import get_client

    from tasks import tracking

    with get_client(sync_client=True) as client:
        client.hello()
    tracking.client(home)


def child(way: str, recipe_file: Path) -> None:
    """One composition in this process; prints its figures."""
    from flows.environment import make_home

    home = make_home()
    from flows.compose import compose
    from flows.recipe import load_recipe

    recipe = load_recipe(recipe_file)
    wall, processor = time.perf_counter(), time.process_time()
    if way == "orchestrated":
        start_servers(home)
    start = time.perf_counter() - wall
    record = compose(recipe) if way == "orchestrated" else compose_plainly(recipe, home)
    seconds = {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "start": start,
    }
    sys.stdout.write("\n" + json.dumps({"student": record["student"], **seconds}) + "\n")


def measure(way: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """One composition in a fresh process and home."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.overhead", "--child", way, str(path)],
            env={**inherited, "DETCOMPOSE_HOME": f"{folder}/home"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{way}: {done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{way}: {result['wall']:.1f} s, processor {result['processor']:.1f} s", file=sys.stderr)
    return result


def demo_recipe(folder: Path, images: int, epochs: int, *, evaluation: bool) -> dict[str, Any]:
    """The demo's recipe on so many scenes."""
    import yaml

    from demo.scenes import make_scenes

    make_scenes(folder / "pool", images=images, seed=1, labelled=False, part="pool")
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "demo" / "recipe.yaml").read_text())
    recipe["teachers"] = [str(ROOT / "demo" / name) for name in recipe["teachers"]]
    recipe["images"] = {"source": str(folder / "pool")}
    start = recipe["student"]["warm_start"].removeprefix("bundle:")
    recipe["student"] |= {"epochs": epochs, "warm_start": f"bundle:{ROOT / 'demo' / start}"}
    recipe["evaluate"] = []
    if evaluation:
        make_scenes(folder / "evaluation", images=max(images // 3, 8), seed=2, part="evaluation")
        annotations = str(folder / "evaluation" / "scenes.json")
        recipe["evaluate"] = [{"name": "evaluation", "annotations": annotations}]
    return recipe


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--evaluation", action="store_true", help="also evaluate and measure costs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = demo_recipe(Path(folder), options.images, options.epochs, evaluation=options.evaluation)
        for number in range(options.repeats):
            order = ("plain", "orchestrated") if number % 2 == 0 else ("orchestrated", "plain")
            found = {way: measure(way, recipe) for way in order}
            assert found["plain"]["student"] == found["orchestrated"]["student"], "not the same student"
            pairs.append(found)

    def difference(key: str) -> list[float]:
        return [pair["orchestrated"][key] - pair["plain"][key] for pair in pairs]

    def share(key: str) -> float:
        plain = [pair["plain"][key] for pair in pairs]
        return 100 * statistics.median(d / p for d, p in zip(difference(key), plain, strict=True))

    seconds = statistics.median(difference("wall"))
    start = statistics.median(pair["orchestrated"]["start"] for pair in pairs)
    result = {
        "overhead_percent": round(share("wall"), 2),
        "overhead_seconds": round(seconds, 2),
        "start_seconds": round(start, 2),
        "percent_of_demo": round(100 * seconds / DEMO_SECONDS, 2),
        "percent_of_demo_with_running_servers": round(100 * (seconds - start) / DEMO_SECONDS, 2),
        "processor_percent": round(share("processor"), 2),
        "pairs": pairs,
        "epochs": options.epochs,
        "images": options.images,
        "evaluation": options.evaluation,
        "seed": 0,
        "load": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m benchmarks.overhead {' '.join(sys.argv[1:])}".strip(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else f"overhead {result['overhead_percent']} %")


if __name__ == "__main__":
    main()
