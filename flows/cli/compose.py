"""``detcompose compose``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json, print_results, print_table, show_log
from flows.environment import make_home
from flows.services.temporary import start_temporary_server
from model_zoo.mmdet_runtime import import_mmdet
from tasks.home import Home


def compose(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compose the teachers of a recipe into one student."""
    make_home()
    ready = None if dry_run else start_temporary_server()
    from flows.recipe import load_recipe

    loaded = load_recipe(recipe)
    from flows.plan import make_plan

    home = Home.default()
    plan = make_plan(loaded, home, limit)
    if ready is None:
        from flows.estimate import estimate

        document = {**plan.to_dict(), "finished": plan.finished(home), "estimate": estimate(home, plan)}
        print_json(document) if as_json else print_plan(document)
        return
    show_log()
    from flows.compose import compose as compose_flow
    from tasks import tracking

    # MLflow's database is made while Prefect's server still makes its own
    tracking.client(home)
    if not plan.finished(home):
        import_mmdet()  # seconds, which the server takes as well
    ready()
    record = compose_flow(loaded, limit)
    print_json(record) if as_json else print_record(record)


def print_sight(plan: dict[str, Any]) -> None:
    """The teachers of a plan, and who sees which class, as tables."""
    rows = [[t["name"], t["adapter"], str(t["classes"]), t["digest"][:12]] for t in plan["teachers"]]
    print_table("Teachers", ("name", "adapter", "classes", "digest"), rows)
    space = plan["label_space"]
    coverage = space["coverage"]
    rows = [
        [name, *("●" if seen[row] else "·" for seen in coverage.values())]
        for row, name in enumerate(space["classes"])
    ]
    print_table(f"Label space {space['digest'][:12]} (who sees what)", ("class", *coverage), rows)


def input_rows(plan: dict[str, Any]) -> list[list[str]]:
    """Images and method of a plan, a line each."""
    images = plan["images"]
    return [
        ["images", f"{images['count']} of {images['source']} ({images['digest'][:12]})"],
        *_method_rows(plan["method"]),
    ]


def print_plan(plan: dict[str, Any]) -> None:
    """The plan as tables."""
    print_sight(plan)
    student, time = plan["student"], plan["estimate"]
    settings = [
        *input_rows(plan),
        [
            "student",
            f"{student['architecture']}, {student['image_size']} px, {student['epochs']} epochs, "
            f"warm start {student['warm_start']}",
        ],
        *(
            [["trial", "a tenth of the images is held out; kept if clearly better than its start"]]
            * plan["trial"]
        ),
        *[[f"evaluate {name}", f"{entry['images']} images"] for name, entry in plan["evaluate"].items()],
        ["composition", plan["composition"]],
        *[[f"estimated {name}", text] for name, text in time["text"].items()],
    ]
    print_table(f"Plan of {plan['name']}", ("", "value"), settings)
    if plan["finished"]:
        console.print("This composition is finished; a run would do no work.")
    else:
        console.print("Nothing was run. Leave out --dry-run to run it.")


def _method_rows(method: dict[str, Any]) -> list[list[str]]:
    """Calibration, fuser and thresholds of a plan, a line each."""
    fuser, rule, labels = method["fuser"], method["thresholds"], method["labels"]
    learned = ("expertise", "coverage", "bias", "best")
    settings = [
        f"{key} {value}"
        for key, value in fuser["settings"].items()
        if value is not None and key not in learned
    ]
    source = f" ({labels['images']} images of {labels['source']})" if labels else ""
    thresholds = [
        rule["rule"],
        *(f"{key} {rule[key]}" for key in ("keep", "ignore") if rule[key] is not None),
    ]
    thresholds += [f"{name} {value}" for name, value in rule["per_class"].items()]
    augment = method["generate"]["augment"]
    return [
        *([["augment", augment]] if augment != "none" else []),
        ["calibration", method["calibration"] + source],
        ["fuser", ", ".join([fuser["name"], *settings])],
        ["thresholds", ", ".join(thresholds)],
    ]


def print_record(record: dict[str, Any]) -> None:
    """The results of a finished composition."""
    for name, rows in record["evaluations"].items():
        print_results(name, rows)
    if record.get("unchanged"):
        console.print("Nothing has changed since this composition was finished: no work was done.")
    bad = record["images"].get("quarantined", 0)
    if bad:
        console.print(f"{bad} images could not be used; the report lists them.")
    console.print(
        f"student  {record['bundle']}\nmodel    {record['model']}\nreport   {record['report']}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
