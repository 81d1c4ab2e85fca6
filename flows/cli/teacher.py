"""``detcompose teacher``: add, list, show, evaluate and check teachers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, percent, print_json, print_table
from flows.environment import make_home
from tasks.home import Home

app = typer.Typer(help="Add, list, show, evaluate and check teachers.", no_args_is_help=True)


@app.command()
def add(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file, a darknet .cfg, an mmdet config (.json or plain .py), weights of a "
            "torchvision or effdet detector (.pth, .safetensors), torchvision:NAME of published weights, "
            "the URL or the .json description of an HTTP service, models:/NAME@ALIAS of the MLflow registry, "
            "or a bundle folder."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name by which it is addressed afterwards.")],
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Its class names in order: one a line, a JSON list or a COCO file. "
            "Only needed where the model's files do not hold them."
        ),
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="Layout of an ONNX model's outputs.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights file, where it does not lie beside the model.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="What torchvision or effdet builds, where the weights do not tell.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of a torchvision or effdet network, where not its own.")
    ] = None,
    norm_eps: Annotated[
        float | None,
        typer.Option(min=0, help="Epsilon of torchvision's normalisations, where not the usual."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="How a service is asked: mlflow, detcompose or kserve-v2.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL where a model of the registry is served.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the Python code of a model of the registry run here.")
    ] = False,
    license_name: Annotated[str, typer.Option("--license", help="Licence of the weights.")] = "unknown",
    as_json: JsonOption = False,
) -> None:
    """Add a teacher; afterwards it is addressed by its name."""
    from tasks.teachers import add as add_teacher

    added = add_teacher(
        Home.default(),
        model,
        name,
        classes=classes,
        decoder=decoder,
        weights=weights,
        architecture=architecture,
        size=_size(input_size),
        norm_eps=norm_eps,
        preset=preset,
        endpoint=endpoint,
        allow_code=allow_code,
        license=license_name,
    )
    if as_json:
        print_json({"name": added.name, "digest": added.digest, "bundle": str(added.folder)})
    else:
        classes_text = f"{len(added.manifest.vocabulary)} classes"
        typer.echo(f"teacher {name}: {added.manifest.adapter}, {classes_text}, digest {added.digest[:12]}")


def _size(text: str | None) -> tuple[int, int] | None:
    """``640x480`` as (height, width)."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"--input-size {text}: not a size", "Give width and height in pixels, e.g. 1333x800.")
    return int(height), int(width)


@app.command()
def register(
    teacher: Annotated[str, typer.Argument(help="Name of an added teacher, or path of a bundle.")],
    name: Annotated[str | None, typer.Option("--as", help="Name in the registry; default: its own.")] = None,
    alias: Annotated[
        str, typer.Option(help="Alias that it gets, taken from the version that has it; '' = none.")
    ] = "champion",
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag of the version, key=value; recipes can select by it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Register a teacher in MLflow, so that recipes and `recompose` find it."""
    from tasks.references import tags_of

    tags = tags_of(tag or ())
    make_home()
    from flows.register import register as register_flow

    # a registration takes a moment: no reason to start a server of Prefect's around it
    done = register_flow.fn(teacher, name, alias, tags)
    if as_json:
        print_json(done)
        return
    state = "registered" if done["new"] else "was registered before"
    address = f"teachers/{done['name']}@{done['version']}"
    shown = f", alias {done['alias']}" if done["alias"] else ""
    typer.echo(f"{address} {state}{shown}, digest {done['digest'][:12]}")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the teachers that were added."""
    from tasks import teachers

    home = Home.default()
    found = [teachers.find(home, name, verify=False) for name in teachers.names(home)]
    if as_json:
        print_json(
            [
                {
                    "name": t.name,
                    "adapter": t.manifest.adapter,
                    "classes": list(t.manifest.vocabulary),
                    "digest": t.digest,
                    "bundle": str(t.folder),
                }
                for t in found
            ]
        )
        return
    if not found:
        typer.echo("no teachers yet; add one with `detcompose teacher add`")
        return
    rows = [
        [
            t.name,
            t.manifest.adapter,
            t.manifest.output.decoder or "-",
            f"{t.manifest.input.width}x{t.manifest.input.height}",
            str(len(t.manifest.vocabulary)),
            t.digest[:12],
        ]
        for t in found
    ]
    print_table("Teachers", ("name", "adapter", "decoder", "input", "classes", "digest"), rows)


@app.command()
def show(
    teacher: Annotated[str, typer.Argument(help="Name or bundle path.")], as_json: JsonOption = False
) -> None:
    """Show a teacher's manifest, after checking its files."""
    from tasks import teachers

    found = teachers.find(Home.default(), teacher)
    document = {**found.manifest.model_dump(mode="json"), "digest": found.digest, "bundle": str(found.folder)}
    if as_json:
        print_json(document)
        return
    manifest = found.manifest
    rows = [
        ["bundle", str(found.folder)],
        ["digest", found.digest],
        ["adapter", manifest.adapter],
        [
            "input",
            f"{manifest.input.width}x{manifest.input.height} {manifest.input.resize} {manifest.input.color}",
        ],
        ["decoder", manifest.output.decoder or "-"],
        ["NMS IoU", str(manifest.output.nms_iou)],
        ["classes", ", ".join(manifest.vocabulary)],
        ["files", ", ".join(f"{name} ({entry.bytes:,} bytes)" for name, entry in manifest.files.items())],
        ["licence", manifest.license],
        *[[f"provenance: {key}", str(value)] for key, value in manifest.provenance.items()],
    ]
    print_table(f"Teacher {found.name}", ("", "value"), rows)


@app.command()
def evaluate(
    teacher: Annotated[str, typer.Argument(help="Name or bundle path.")],
    images: Annotated[Path, typer.Option(help="COCO file with labels, or a YOLO or VOC data set.")],
    root: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    save_profile: Annotated[
        bool,
        typer.Option(
            "--save-profile",
            help="Keep the score profile on these images in the bundle: `diagnose` holds other images "
            "against it. Its own validation images are the right ones.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a teacher on the classes that it shares with an annotated image set."""
    from tasks import evaluate as evaluation
    from tasks import score_profiles, teachers

    home = Home.default()
    found = teachers.find(home, teacher)
    dataset = evaluation.load_dataset(images, root, limit)
    metrics = evaluation.evaluate_detector(home.store, found, dataset)
    document = {"teacher": found.name, **metrics.to_dict()}
    if save_profile:
        score_profiles.save_profile(found, score_profiles.make_profile(home.store, found, dataset), dataset)
    if as_json:
        print_json(document)
        return
    print_table(
        f"{found.name} on {images.name}: {metrics.images} images, {metrics.classes} shared classes",
        ("class", "AP %", "AP50 %", "boxes"),
        [
            *[
                [name, percent(values["AP"]), percent(values["AP50"]), str(values["boxes"])]
                for name, values in document["per_class"].items()
                if values["boxes"]
            ],
            ["all", percent(document["AP"]), percent(document["AP50"]), str(document["boxes"])],
        ],
    )


@app.command()
def check(
    teacher: Annotated[str, typer.Argument(help="Name or bundle path.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder with pictures of what it knows; the first ten are used.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a teacher to what every detector promises; about 80 pictures are shown to it."""
    from tasks.conformance import check_teacher

    name, checks = check_teacher(Home.default(), teacher, images)
    broken = [one for one in checks if one.problem]
    if as_json:
        print_json({"teacher": name, "kept": not broken, "checks": [asdict(one) for one in checks]})
    else:
        rows = [[one.name, "BROKEN" if one.problem else "kept", one.problem or one.note] for one in checks]
        print_table(
            f"{name}: {len(checks) - len(broken)} of {len(checks)} promises kept",
            ("promise", "", "finding"),
            rows,
        )
    if broken:
        raise typer.Exit(1)
