"""``detcompose up``, ``down`` and ``status``: the services of this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, console, print_json, print_table
from flows.environment import make_home

if TYPE_CHECKING:
    from flows.services.catalog import Catalog
    from flows.services.place import Place
    from flows.services.processes import Found
    from flows.services.settings import Settings

START_SECONDS = 240.0
STOP_SECONDS = 120.0


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on. \\[default: 127.0.0.1]")] = None,
    prefect_port: Annotated[
        int | None, typer.Option(help="Prefect's port, 0: a free one. \\[default: 4200]")
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(help="MLflow's port, 0: a free one. \\[default: 5000]")
    ] = None,
    relay_port: Annotated[
        int | None, typer.Option(help="The relay's port, 0: a free one. \\[default: 4290]")
    ] = None,
    auth: Annotated[
        bool | None, typer.Option("--auth/--no-auth", help="Whether both servers ask for a password.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Start only this: prefect, mlflow, worker or relay. Repeatable.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything runs.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until everything must be well.")
    ] = START_SECONDS,
) -> None:
    """Start Prefect, MLflow, a worker and the webhook relay; Ctrl-C stops them.

    Addresses are kept for the next start. Databases and secrets come from the
    environment: docs/operations.md.
    """
    home = make_home()
    from flows.services.place import Place

    place = Place(home)
    place.make()
    asked = {
        "host": host,
        "prefect_port": prefect_port,
        "mlflow_port": mlflow_port,
        "relay_port": relay_port,
        "auth": auth,
        "only": only,
    }
    if detach:
        _detach(place, timeout)
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with place.locked() as ours:
        if not ours:
            raise _already_running(place)
        _serve(place, asked, stop, timeout)


def _serve(place: Place, asked: dict[str, Any], stop: threading.Event, timeout: float) -> None:
    from flows.services import settings as chosen
    from flows.services.catalog import build
    from flows.services.supervisor import Supervisor

    databases = chosen.read_databases()
    settings = chosen.choose(place, asked, databases)
    catalog = build(place, settings, databases)
    supervisor = Supervisor(place, catalog, _report)
    adopted = supervisor.adopt()
    if adopted:
        console.print(f"still running since an earlier start, taken over: {', '.join(adopted)}")
    chosen.check_free(settings, {service.name for service in catalog.services} - set(adopted))
    chosen.save(place, settings, databases)
    supervisor.run(stop, timeout, lambda: _ready(catalog, settings))


def _report(service: str, phase: str, seconds: float) -> None:
    console.print(f"{service:<12}{phase:<14}{seconds:6.1f} s", highlight=False)


def _ready(catalog: Catalog, settings: Settings) -> None:
    shown = {"prefect": "Prefect UI", "mlflow": "MLflow UI", "relay": "webhooks"}
    for service in catalog.services:
        if service.url:
            console.print(f"{shown[service.name]:<12}{service.url}", highlight=False)
    if settings.auth:
        console.print("Both servers ask for a password; where it is: `detcompose status --env`.")
    console.print(
        "Everything runs. Other shells: commands of this home find the servers by themselves; "
        'for other programs `eval "$(detcompose status --env)"`. Ctrl-C or `detcompose down` stops it.',
    )


def _detach(place: Place, timeout: float) -> None:
    """Starts the same command in the background and waits until it says that all is well."""
    if place.supervisor():
        raise _already_running(place)
    words = [word for word in sys.argv[1:] if word not in ("--detach", "-d")]
    log = place.new_log("up")
    began = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-c", "from flows.cli.main import main; main()", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout + STOP_SECONDS
    while child.poll() is None and not _all_well(place, child.pid) and time.monotonic() < deadline:
        time.sleep(0.3)
    # the child may stand between state and message
    time.sleep(0.5)
    console.print(log.read_bytes()[began:].decode(errors="replace"), end="", highlight=False, markup=False)
    if child.poll() is not None:
        raise typer.Exit(child.returncode or 1)


def _all_well(place: Place, supervisor: int) -> bool:
    state = place.read("state")
    services = state.get("services", {})
    # while it starts, the state is still that of an earlier one
    return (
        bool(services)
        and state.get("written_by") == supervisor
        and all(one["phase"] in ("healthy", "done") for one in services.values())
    )


def _already_running(place: Place) -> UserError:
    return UserError(
        f"the services of {place.home.root} run already (process {place.supervisor()})",
        "`detcompose status` shows them, `detcompose down` stops them.",
    )


def down(
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until what is left is killed.")
    ] = STOP_SECONDS,
) -> None:
    """Stop the services of this home, also those that lost their parent."""
    from flows.services.place import Place
    from flows.services.supervisor import sweep
    from tasks.home import Home

    place = Place(Home.default())
    supervisor = place.supervisor()
    if supervisor:
        _end_supervisor(place, supervisor, timeout)
    left = (
        sweep(place, {"prefect", "mlflow", "worker", "deployments", "relay"}, grace=30)
        if place.root.exists()
        else 0
    )
    if left and not supervisor:
        place.write("state", {})
    if supervisor:
        console.print("stopped")
    elif left:
        console.print(f"stopped {left} processes that an earlier start had left behind")
    else:
        console.print(f"no services run in {place.home.root}")


def _end_supervisor(place: Place, pid: int, timeout: float) -> None:
    from flows.services.processes import send

    send([pid], signal.SIGTERM)
    _wait(lambda: place.supervisor() is None, timeout)
    if place.supervisor():
        send([pid], signal.SIGKILL)
        _wait(lambda: place.supervisor() is None, 10)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


def status(
    as_json: JsonOption = False,
    env: Annotated[bool, typer.Option("--env", help="Print export lines for a shell.")] = False,
) -> None:
    """Show the services of this home; exit code 1 unless all are well."""
    from flows.services.connection import shell_lines
    from flows.services.place import Place
    from tasks.home import Home

    place = Place(Home.default())
    if env:
        sys.stdout.write("\n".join(shell_lines(place)) + "\n")
        return
    document = _document(place)
    if as_json:
        print_json(document)
    else:
        _print_status(place.home.root, document)
    if not document["healthy"]:
        raise typer.Exit(1)


def _document(place: Place) -> dict[str, Any]:
    from flows.services import processes

    supervisor = place.supervisor()
    state = place.read("state")
    living = processes.find(place.identity) if place.root.exists() else []
    services = {
        name: {
            "phase": one["phase"] if supervisor else _left(one["pid"], living),
            "url": one["url"],
            "pid": one["pid"],
            "restarts": one["restarts"],
            "seconds": round(time.time() - one["since"], 1),
            "log": one["log"],
        }
        for name, one in state.get("services", {}).items()
    }
    return {
        "home": str(place.home.root),
        "running": supervisor is not None,
        "healthy": supervisor is not None and _all_well(place, supervisor),
        "supervisor": supervisor,
        "processes": len(living),
        "services": services,
    }


def _left(pid: int, living: list[Found]) -> str:
    """What a service is that nobody looks after."""
    return "unattended" if any(found.pid == pid for found in living) else "stopped"


def _print_status(root: Path, document: dict[str, Any]) -> None:
    services = document["services"]
    if not services and not document["processes"]:
        console.print(f"no services run in {root}; start them with `detcompose up`")
        return
    rows = [[name, one["phase"], str(one["restarts"]), one["url"] or "-"] for name, one in services.items()]
    print_table(f"Services of {root}", ("service", "", "restarts", "address"), rows)
    console.print(f"logs {root / 'services' / 'logs'}", soft_wrap=True, highlight=False)
    if not document["running"]:
        console.print(
            f"`detcompose up` was killed; {document['processes']} processes are left. "
            "`detcompose up` takes over what it can use, `detcompose down` stops them."
        )
