"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import mlflow_server

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real images and detectors; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("DETCOMPOSE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "coco" / "val.json").is_file():
        pytest.skip(f"no data at {folder} (set DETCOMPOSE_DATA)")
    return folder


@pytest.fixture(scope="session")
def mlflow_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, one for the session: tests use names of their own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as address:
        yield address
