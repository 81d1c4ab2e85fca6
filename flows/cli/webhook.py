"""``detcompose webhook``: MLflow's webhook for the relay."""

from __future__ import annotations

from typing import Annotated

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, print_json, print_table
from flows.environment import configure

app = typer.Typer(help="MLflow's webhook, which tells the relay of new teachers.", no_args_is_help=True)


@app.command()
def register(
    url: Annotated[str, typer.Option(help="Address of the relay.")] = "http://127.0.0.1:4290/webhooks/mlflow",
    as_json: JsonOption = False,
) -> None:
    """Register the webhook at the MLflow server; the secret is in DETCOMPOSE_WEBHOOK_SECRET or ..._FILE."""
    home = configure()
    from flows.relay.settings import read_secret
    from tasks import tracking
    from tasks.webhooks import register_webhook

    secret = read_secret()
    hook = register_webhook(tracking.client(home), url, secret)
    if as_json:
        print_json({"id": hook.webhook_id, "name": hook.name, "url": hook.url})
        return
    typer.echo(f"webhook {hook.name!r} sends to {hook.url}")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the webhooks of the MLflow server."""
    home = configure()
    from tasks import tracking
    from tasks.webhooks import list_webhooks

    hooks = [
        {
            "id": hook.webhook_id,
            "name": hook.name,
            "url": hook.url,
            "status": str(hook.status.value),
            "events": [f"{event.entity.value}.{event.action.value}" for event in hook.events],
        }
        for hook in list_webhooks(tracking.client(home))
    ]
    if as_json:
        print_json(hooks)
        return
    rows = [[str(h["name"]), str(h["url"]), str(h["status"]), ", ".join(h["events"])] for h in hooks]
    print_table("Webhooks", ("name", "address", "status", "events"), rows)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the webhook.")] = "detcompose") -> None:
    """Remove a webhook from the MLflow server."""
    home = configure()
    from tasks import tracking
    from tasks.webhooks import list_webhooks

    connection = tracking.client(home)
    found = [hook for hook in list_webhooks(connection) if hook.name == name]
    if not found:
        raise UserError(f"there is no webhook {name!r}", "See `detcompose webhook list`.")
    for hook in found:
        connection.delete_webhook(hook.webhook_id)
    typer.echo(f"webhook {name!r} removed")
