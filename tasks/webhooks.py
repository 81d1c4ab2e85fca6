"""The registry's webhook: registered once at the MLflow server, found again by its name."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.webhook import Webhook, WebhookEvent, WebhookEventStr
from mlflow.exceptions import MlflowException

from composition.errors import UserError
from tasks.tracking import every

NAME = "detcompose"
EVENTS: tuple[WebhookEventStr, ...] = ("model_version.created", "model_version_alias.created")
"""Moving an alias counts as creating it."""


def register_webhook(connection: MlflowClient, url: str, secret: str, name: str = NAME) -> Webhook:
    """Registers the webhook, or gives the one of that name this address and secret.

    Args:
        connection: A client of an MLflow server.
        url: Of the relay, ``http://127.0.0.1:4290/webhooks/mlflow``.
        secret: Shared with the relay.
        name: Name at the server.

    Raises:
        UserError: There is no server, or it does not take the address.
    """
    if connection.tracking_uri.startswith("sqlite:"):
        raise UserError(
            "webhooks need an MLflow server: a database alone sends nothing",
            "Start one with `detcompose up`, or set MLFLOW_TRACKING_URI.",
        )
    description = "Starts detcompose's recompose when a teacher is registered or an alias moves."
    events: list[WebhookEventStr | WebhookEvent] = list(EVENTS)
    try:
        existing = next((one for one in list_webhooks(connection) if one.name == name), None)
        if existing is None:
            return connection.create_webhook(name, url, events, description=description, secret=secret)
        return connection.update_webhook(
            existing.webhook_id,
            url=url,
            events=events,
            description=description,
            secret=secret,
            status="ACTIVE",
        )
    except MlflowException as error:
        raise UserError(
            f"MLflow does not take the webhook {url}: {str(error).splitlines()[0]}",
            "For a relay without TLS or on a private address the server needs "
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https and MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true.",
        ) from None


def list_webhooks(connection: MlflowClient) -> list[Webhook]:
    """All webhooks of the server."""
    return every(lambda token: connection.list_webhooks(page_token=token))
