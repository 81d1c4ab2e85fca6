"""How long `detcompose up` takes until everything is well, and what it then weighs.

    python -m benchmarks.start_up [--repeats N] [--auth] [--json]

Writes ``benchmarks/results/start_up.json``. Each repeat begins in an empty
home, stops, and starts again over the databases that are there. The load of
the machine is written beside the figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.services import processes
from flows.services.place import Place
from tasks.home import Home

RESULTS = Path(__file__).parent / "results"
COMMAND = [sys.executable, "-c", "from flows.cli.main import main; main()"]


def run(home: Path, *words: str) -> float:
    """Runs a command in a home; seconds that it took."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))
    }
    began = time.perf_counter()
    subprocess.run(
        [*COMMAND, *words],
        env=environment | {"DETCOMPOSE_HOME": str(home)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def memory(home: Path) -> dict[str, float]:
    """Proportional memory (MiB) of every service, all of its processes together."""
    found: dict[str, float] = {}
    for one in processes.find(Place(Home(home)).identity):
        rollup = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
        (line,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
        found[one.service] = found.get(one.service, 0) + int(line.split()[1]) / 1024
    return {name: round(value, 1) for name, value in found.items()}


def measure(auth: bool) -> dict[str, Any]:
    """One start in an empty home and one over what the first has left."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        ports = [word for name in ("prefect", "mlflow", "relay") for word in (f"--{name}-port", "0")]
        load = os.getloadavg()[0]
        try:
            first = run(home, "up", "--detach", *ports, *(["--auth"] if auth else []))
            weight = memory(home)
            down = run(home, "down")
            again = run(home, "up", "--detach")
        finally:
            run(home, "down")
    return {
        "load_before": round(load, 1),
        "first_seconds": round(first, 1),
        "again_seconds": round(again, 1),
        "down_seconds": round(down, 1),
        "memory_mib": weight,
    }


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--auth", action="store_true", help="with passwords")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    runs = [measure(options.auth) for _ in range(options.repeats)]
    results = {
        "command": " ".join(["python -m benchmarks.start_up", *sys.argv[1:]]),
        "date": f"{datetime.date.today()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("detcompose", "prefect", "mlflow")},
        "runs": runs,
    }
    (RESULTS / "start_up.json").write_text(json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for one in runs:
        print(
            f"load {one['load_before']:4}  first {one['first_seconds']:5} s  "
            f"again {one['again_seconds']:5} s  "
            f"down {one['down_seconds']:4} s  {sum(one['memory_mib'].values()):.0f} MiB"
        )


if __name__ == "__main__":
    main()
