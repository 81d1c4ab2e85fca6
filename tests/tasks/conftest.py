"""One real Prefect server, and small scenes, for the steps that need them."""

from __future__ import annotations

from tests.flows.conftest import home, prefect_server, scenes  # noqa: F401
