"""``python -m flows.services.deploy``: registers all deployments, as soon as the server answers."""

from __future__ import annotations

from pathlib import Path

from flows.deployments import DEPLOYMENTS, deploy
from flows.services.worker import wait_for_server


def main() -> None:
    """Registers the deployments; runs start in the folder where this was called."""
    # their imports take as long as the server needs to start
    for entry in DEPLOYMENTS:
        entry.load()
    wait_for_server()
    for name in deploy(working_dir=Path.cwd()):
        print(f"registered {name}")


if __name__ == "__main__":
    main()
