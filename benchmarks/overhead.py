"""What orchestration costs: the demo composition through Prefect and MLflow against its plain functions.

    python -m benchmarks.overhead [--epochs N] [--images N] [--repeats N] [--evaluation] [--json]

Both ways run the same steps (`flows.compose`), each in a process and an empty home of its
own, in turns (A B, B A, ...). Plain: Prefect's tasks are called as the functions that
they wrap, the tracker records nothing, the student is packed (with its export to ONNX) and
not registered. Orchestrated: the command
`detcompose compose`, with Prefect's temporary server on a new database and MLflow on a new
SQLite file. Both must end in the same student, to the byte.

Times are those of whole processes, from their start to their end. The plain one imports Prefect
and MLflow because our modules do; ``imports_seconds``, which a program without them would not
need, are taken off its time. ``overhead_percent`` is the median of the pairs' differences in wall
time, as a share of the plain time; ``percent_of_demo`` is the same difference as a share of the
demo as it is shipped, `DEMO_SECONDS`. ``processor_percent`` compares the processor time, the
server's included, which other work on the machine disturbs less.
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
    from tasks.packages import make_package
    from tasks.train import as_teacher

    Task.__call__ = lambda self, *a, **k: self.fn(*a, **k)  # type: ignore[assignment, method-assign]

    def package(home: Any, plan: Any, run: Any, index: Any, labels: Any, student: Any, _: Any) -> Any:
        make_package(home.store, as_teacher(student).folder)
        return SimpleNamespace(version=SimpleNamespace(name="not registered", version=0))

    module.register_version = package  # type: ignore[assignment]
    run: Any = SilentRun()
    return module._run_steps(home, make_plan(recipe, home), run, None)


def plain(recipe_file: Path) -> None:
    """One composition of plain functions in this process; prints its record."""
    from flows.environment import make_home

    home = make_home()
    from flows.recipe import load_recipe

    record = compose_plainly(load_recipe(recipe_file), home)
    sys.stdout.write("\n" + json.dumps(record) + "\n")


IMPORTS = "import prefect, prefect.artifacts, prefect.concurrency.sync, mlflow"
COMMANDS = {
    "plain": ["-m", "benchmarks.overhead", "--plain"],
    "orchestrated": ["-c", "from flows.cli.main import main; main()", "compose", "--json"],
    "imports": ["-c", IMPORTS],
}


def measure(way: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """One fresh process and home: seconds of wall and processor time, and the student."""
    with tempfile.TemporaryDirectory() as folder:
        path, out, err = (Path(folder) / name for name in ("recipe.yaml", "out", "err"))
        path.write_text(json.dumps(recipe))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            wall = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *COMMANDS[way], *([] if way == "imports" else [str(path)])],
                env={**inherited, "DETCOMPOSE_HOME": f"{folder}/home"},
                cwd=ROOT,
                stdout=stdout,
                stderr=stderr,
            )
            # its own and that of the server that it has waited for
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - wall
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{way}: {out.read_text()}\n{err.read_text()}")
        text = out.read_text().strip()
    result: dict[str, Any] = {"wall": wall, "processor": usage.ru_utime + usage.ru_stime}
    if text:
        result["student"] = json.loads(text[text.index("{") :])["student"]
    print(f"{way}: {wall:.1f} s, processor {result['processor']:.1f} s", file=sys.stderr)
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
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.plain)
        return
    pairs = []
    imports = [measure("imports", {}) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        recipe = demo_recipe(Path(folder), options.images, options.epochs, evaluation=options.evaluation)
        for number in range(options.repeats):
            order = ("plain", "orchestrated") if number % 2 == 0 else ("orchestrated", "plain")
            found = {way: measure(way, recipe) for way in order}
            assert found["plain"]["student"] == found["orchestrated"]["student"], "not the same student"
            pairs.append(found)

    def pure(key: str) -> list[float]:
        unneeded = statistics.median(one[key] for one in imports)
        return [pair["plain"][key] - unneeded for pair in pairs]

    def difference(key: str) -> list[float]:
        return [pair["orchestrated"][key] - p for pair, p in zip(pairs, pure(key), strict=True)]

    def share(key: str) -> float:
        return 100 * statistics.median(d / p for d, p in zip(difference(key), pure(key), strict=True))

    seconds = statistics.median(difference("wall"))
    result = {
        "overhead_percent": round(share("wall"), 2),
        "overhead_seconds": round(seconds, 2),
        "imports_seconds": round(statistics.median(one["wall"] for one in imports), 2),
        "percent_of_demo": round(100 * seconds / DEMO_SECONDS, 2),
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
