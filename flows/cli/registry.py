"""``detcompose registry``: what the registry holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json, print_table
from tasks.home import Home

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

app = typer.Typer(help="List and show registered teachers and students.", no_args_is_help=True)


@app.command("list")
def list_(
    versions: Annotated[
        bool, typer.Option("--versions", help="Every version, not only those with an alias and the newest.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List registered teachers and students."""
    from tasks import registry, tracking
    from tasks.references import STUDENTS, TEACHERS

    connection = tracking.client(Home.default())
    found: list[dict[str, Any]] = []
    for role in (TEACHERS, STUDENTS):
        for model in registry.models(connection, role):
            every = registry.versions(connection, str(model.name))
            held = {str(number) for number in model.aliases.values()}
            found += [
                _document(version, model.aliases)
                for position, version in enumerate(every)
                if versions or position == 0 or str(version.version) in held
            ]
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("nothing is registered yet; see `detcompose teacher register` and `detcompose compose`")
        return
    rows = [
        [
            one["name"],
            str(one["version"]),
            ", ".join(one["aliases"]) or "-",
            str(one["classes"]),
            one["digest"][:12],
            one["parents"] or "-",
        ]
        for one in found
    ]
    print_table("Registry", ("name", "version", "alias", "classes", "digest", "made from"), rows)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="E.g. students/traffic@champion or teachers/signs@3.")],
    as_json: JsonOption = False,
) -> None:
    """Show a version: its card, and the tags that hold its lineage."""
    from rich.markdown import Markdown

    from tasks import registry, tracking
    from tasks.references import CHAMPION, parse

    connection = tracking.client(Home.default())
    version = registry.resolve(connection, parse(reference, CHAMPION))
    aliases = connection.get_registered_model(version.name).aliases
    document = {**_document(version, aliases), "tags": dict(version.tags), "card": version.description}
    if as_json:
        print_json(document)
        return
    console.print(Markdown(version.description or "no description"))
    tags = [[key, value[:200]] for key, value in sorted(version.tags.items()) if key != "classes"]
    title = f"{document['name']} version {document['version']}"
    print_table(title, ("", "value"), [["aliases", ", ".join(document["aliases"]) or "-"], *tags])


def _document(version: ModelVersion, aliases: dict[str, str]) -> dict[str, Any]:
    number = str(version.version)
    return {
        "name": str(version.name).replace(".", "/", 1),
        "version": int(number),
        "aliases": sorted(alias for alias, held in aliases.items() if str(held) == number),
        "digest": version.tags.get("digest", ""),
        "classes": len(version.tags["classes"].split(", ")) if version.tags.get("classes") else 0,
        "parents": version.tags.get("parents"),
        "run_id": version.run_id,
    }
