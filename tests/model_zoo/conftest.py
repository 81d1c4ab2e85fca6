"""Small real detectors for the tests of the zoo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL_DETECTORS = Path(__file__).parent / "small_detectors.yaml"
Config = dict[str, Any]


@pytest.fixture(scope="session")
def small_detector() -> Callable[[str], Config]:
    """A fresh model config of ``small_detectors.yaml`` by name."""
    configs: dict[str, Config] = yaml.safe_load(SMALL_DETECTORS.read_text())
    return lambda name: copy.deepcopy(configs[name])
