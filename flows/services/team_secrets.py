"""``python -m flows.services.team_secrets FOLDER``: the secrets of deployments/compose.yaml.

Docker hands the files to the containers as they are, owner and all, and the
services in there are not root: so the files can be read, and their folder is
closed to everybody else on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from flows.services.secret_files import auth_string, fernet_key, password
from tasks.store import write_atomic


def team_secrets() -> dict[str, str]:
    """New secrets by file name; those that belong together agree."""
    database, access, key = password(), password(), password()
    login = [{"accessKey": access, "secretKey": key}]
    server = f"detcompose:{database}@database:5432"
    return {
        "database-password": database,
        "prefect-database": f"postgresql+asyncpg://{server}/prefect",
        "mlflow-database": f"postgresql+psycopg://{server}/mlflow",
        "prefect-auth": auth_string(),
        "mlflow-admin-password": password(),
        "mlflow-session-key": password(),
        "webhook-encryption-key": fernet_key(),
        "webhook-secret": password(),
        "objects.json": json.dumps(
            {
                "identities": [
                    {"name": "mlflow", "credentials": login, "actions": ["Admin", "Read", "Write", "List"]}
                ]
            }
        ),
        "objects-login": f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {key}",
    }


def write(folder: Path) -> bool:
    """Writes all of them, or leaves a folder that has been written as it is.

    Args:
        folder: Where to; closed to others.

    Returns:
        Whether they were written: another password would lock the team out of its databases.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return False
    # complete or not there: half of them would be taken for all
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    draft.mkdir(parents=True, mode=0o700)
    for name, value in team_secrets().items():
        write_atomic(draft / name, f"{value}\n".encode())
        (draft / name).chmod(0o444)
    if folder.is_dir():
        folder.rmdir()
    draft.rename(folder)
    return True


def main() -> None:
    """Writes the secrets into the folder that is named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.services.team_secrets", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write, e.g. deployments/secrets")
    folder = parser.parse_args().folder.absolute()
    written = write(folder)
    sys.stdout.write(f"{folder} {'written' if written else 'is there already and stays as it is'}\n")


if __name__ == "__main__":
    main()
