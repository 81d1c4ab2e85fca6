"""``python -m flows.services.deploy``: registers all deployments, as soon as the server answers."""

from __future__ import annotations

import importlib
from pathlib import Path

from flows.services.worker import wait_for_server


def main() -> None:
    """Registers the deployments; runs start in the folder where this was called."""
    wait_for_server()
    for name in importlib.import_module("flows.deployments").deploy(working_dir=Path.cwd()):
        print(f"registered {name}")


if __name__ == "__main__":
    main()
