"""The one table of all deployments; a new one is one entry.

Each is called ``<flow>/<flow>``, but for `recomposition`. Its form in the
Prefect UI is made from the signature and docstring of the flow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow

from flows.recipe import Recipe
from flows.services.settings import POOL

__all__ = ["DEPLOYMENTS", "POOL", "Deployment", "recomposition"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A flow that can be started on the server.

    Attributes:
        entrypoint: Where the flow is: ``package.module.function``.
        tags: Tags of its runs.
        concurrency: At most so many runs at once, later ones wait; None: any number.
        cron: When it starts by itself, if ever (UTC).
        parameters: Parameters of scheduled runs, and what the form begins with.
        name: Of the deployment; default: the flow's.
    """

    entrypoint: str
    tags: tuple[str, ...]
    concurrency: int | None = None
    cron: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def load(self) -> Flow[..., Any]:
        """The flow."""
        module, _, name = self.entrypoint.rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert isinstance(found, Flow)
        return found


DEPLOYMENTS = (
    # inference and training fill a machine: the second composition waits for the first
    Deployment("flows.deployments.compose.compose", ("composition",), concurrency=1),
    Deployment("flows.deployments.label.label", ("labels",), concurrency=1),
    Deployment("flows.deployments.finetune.finetune", ("training",), concurrency=1),
    Deployment("flows.deployments.evaluate.evaluate", ("evaluation",), concurrency=2),
    Deployment("flows.deployments.registry.register_teacher", ("registry",)),
    Deployment("flows.deployments.registry.promote", ("registry",), concurrency=1),
)


def recomposition(recipe: Recipe, cron: str) -> Deployment:
    """``recompose/<recipe>``: composes a recipe again whenever its teachers have changed.

    The webhook relay runs all deployments of this flow with their own
    parameters, so there is one for each recipe, and none without.

    Args:
        recipe: What is composed.
        cron: When the registry is looked at (UTC); webhooks come in between.
    """
    return Deployment(
        "flows.deployments.registry.recompose",
        ("composition", "registry"),
        concurrency=1,
        cron=cron,
        parameters={"recipe": recipe.model_dump(mode="json")},
        name=recipe.name,
    )
