"""Where state lives: one folder, ``DETCOMPOSE_HOME`` (default ``.detcompose``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tasks.store import Store

RECORD_FILE = "composition.json"
"""What a finished composition says of itself, in its artifact and below `Home.reports`."""
TEMPORARY_SERVER = "DETCOMPOSE_TEMPORARY_SERVER"
"""Environment variable that is set where Prefect's server ends with this process."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds everything detcompose keeps between runs.

    Attributes:
        root: The folder.
    """

    root: Path

    @classmethod
    def default(cls) -> Home:
        """``$DETCOMPOSE_HOME``, or ``.detcompose`` in the working directory."""
        return cls(Path(os.environ.get("DETCOMPOSE_HOME", ".detcompose")).expanduser().resolve())

    @property
    def store(self) -> Store:
        """Content-addressed artifacts."""
        return Store(self.root / "store")

    @property
    def teachers(self) -> Path:
        """Bundles added by name."""
        return self.root / "teachers"

    @property
    def reports(self) -> Path:
        """Reports of finished compositions, by recipe name."""
        return self.root / "reports"

    def record(self, composition: str) -> Path:
        """Record of the finished composition of that name, if there is one."""
        return self.reports / composition / RECORD_FILE

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry URI: ``$MLFLOW_TRACKING_URI`` or our own SQLite file."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def registry_uri(self) -> str:
        """MLflow's registry, where it is another server than the tracking one: ``$MLFLOW_REGISTRY_URI``."""
        return os.environ.get("MLFLOW_REGISTRY_URI") or self.tracking_uri

    @property
    def registry(self) -> Path:
        """Bundles fetched from the registry, by digest."""
        return self.root / "registry"

    @property
    def remote_images(self) -> Path:
        """Cache of images that lie in an object store."""
        return self.root / "remote-images"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps artifacts when it has no server of its own."""
        return self.root / "mlflow-artifacts"
