"""Deployments: what a person, a schedule or an event starts on a Prefect server."""

from flows.deployments.register import deploy
from flows.deployments.table import DEPLOYMENTS, POOL, Deployment

__all__ = ["DEPLOYMENTS", "POOL", "Deployment", "deploy"]
