"""What the documents tell people to type is run, or at least understood."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from prefect.settings import PREFECT_API_URL

from flows.cli.main import app
from model_zoo.class_lists import read_classes
from model_zoo.importing import import_teacher
from tests.flows.conftest import TEACHERS, prefect_server, scenes, small_recipe  # noqa: F401
from tests.model_zoo.adapters.networks import yolov8

ROOT = Path(__file__).resolve().parents[1]
DETCOMPOSE = [sys.executable, "-c", "from flows.cli.main import main; main()"]
PAGES = ["README.md", "Makefile", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")), "recipes"]


def commands(page: str) -> list[str]:
    """All lines of a page that begin with ``detcompose``, comments and continuations dealt with."""
    files = [ROOT / page] if (ROOT / page).is_file() else sorted((ROOT / page).glob("*.yaml"))
    found = []
    for file in files:
        text = re.sub(r"\\\n[#\s]*", " ", file.read_text())
        for line in text.splitlines():
            match = re.match(r"\s*#?\s*(?:\$\(BIN\)/)?detcompose\s+(\S.*)", line)
            if match and not match[1].startswith("finetune | evaluate"):
                found.append(match[1])
    return found


def parse(words: list[str]) -> None:
    """Parses a command line without running it."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, words, parent=context)
        _, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command = found
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_documents_is_understood(page: str) -> None:
    for line in commands(page):
        # "[--decoder D]" is an option that may be left out; "> file" is the shell's
        parse(shlex.split(line.replace("[", "").replace("]", "").split(" > ")[0], comments=True))


def test_the_documents_hold_commands() -> None:
    assert len(commands("README.md")) >= 6
    assert len(commands("recipes")) >= 5
    with pytest.raises(Exception, match="No such option"):
        parse(["compose", "recipe.yaml", "--dry"])


def shell(words: list[str], folder: Path, **environment: str) -> str:
    inherited = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    done = subprocess.run(
        words,
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "HOME": str(folder / "nobody"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_commands_of_the_readme_work_one_after_the_other(
    prefect_server: None,  # noqa: F811
    scenes: Path,  # noqa: F811
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """With the reader's files put where the README says they are."""
    teachers = data_dir / "teachers"
    shutil.copy(teachers / "yolox_nano_coco" / "yolox_nano.onnx", tmp_path / "yolox.onnx")
    shutil.copy(teachers / "coco.names", tmp_path)
    annotations = json.loads((data_dir / "coco" / "val.json").read_text())
    shown = {image["id"] for image in annotations["images"][:6]}
    annotations["images"] = annotations["images"][:6]
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] in shown]
    (tmp_path / "val.json").write_text(json.dumps(annotations))
    for folder in ("images", "photos"):
        (tmp_path / folder).mkdir()
        for image in annotations["images"]:
            (tmp_path / folder / image["file_name"]).symlink_to(
                data_dir / "coco" / "images" / image["file_name"]
            )
    server = PREFECT_API_URL.value() or ""
    darknet = teachers / "yolo_fastest_xl_voc" / "yolo-fastest-xl.cfg"
    other = ["teacher", "add", str(darknet), "--classes", str(teachers / "voc.names"), "--name", "other"]
    shell([*DETCOMPOSE, *other], tmp_path)
    recipe = small_recipe(
        scenes,
        teachers=["yolox-coco", "other"],
        label_space={"file": "label_space.yaml"},
        images={"source": "photos"},
        evaluate=[{"annotations": "val.json"}],
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    for line in commands("README.md"):
        line, _, target = line.partition(" #")[0].partition(" > ")
        out = shell([*DETCOMPOSE, *shlex.split(line)], tmp_path, PREFECT_API_URL=server)
        if target.strip():
            (tmp_path / target.strip()).write_text(out)
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 6
    assert (tmp_path / ".detcompose" / "reports" / "digits" / "report.html").is_file()
    assert (tmp_path / "student.onnx").stat().st_size > 1_000_000


def test_a_run_needs_no_server_no_variables_and_one_folder(
    scenes: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """As on a fresh machine: everything lies below .detcompose, nothing in the user's home."""
    recipe = small_recipe(scenes)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    record = json.loads(shell([*DETCOMPOSE, "compose", "recipe.yaml", "--json"], tmp_path))
    assert record["model"] == "models:/students.digits/1"
    assert {path.name for path in tmp_path.iterdir()} - {"nobody"} == {"recipe.yaml", ".detcompose"}
    left = (
        {path.name for path in (tmp_path / "nobody").glob("*")} if (tmp_path / "nobody").exists() else set()
    )
    assert left <= {".cache", ".config"}, "libraries may cache, we keep no state there"
    again = json.loads(shell([*DETCOMPOSE, "compose", "recipe.yaml", "--json"], tmp_path))
    assert again["unchanged"]


def test_every_shipped_recipe_can_be_planned(data_dir: Path, tmp_path: Path) -> None:
    """``--dry-run`` of each recipe, its teachers added as its comments say; trained ones are stand-ins."""
    home = tmp_path / "home"
    environment = {"DETCOMPOSE_HOME": str(home), "DETCOMPOSE_DATA": str(data_dir)}
    for line in commands("recipes"):
        words = [word.replace("$D", str(data_dir)) for word in shlex.split(line)]
        if words[:2] == ["teacher", "add"] and Path(words[2]).is_file():
            shell([*DETCOMPOSE, *words], tmp_path, **environment)
        elif words[:2] == ["teacher", "add"] or words[0] == "train":
            # weights that the reader trains or brings along
            given = words[3:] if words[0] == "teacher" else words[1:]
            options = dict(zip(given[::2], given[1::2], strict=True))
            names = Path(options.get("--images") or options["--classes"])
            known = read_classes(names if names.is_file() else data_dir / "teachers" / "voc.names")
            chosen = options.get("--classes", ",".join(known)) if words[0] == "train" else ",".join(known)
            classes = chosen.split(",")
            model = yolov8(tmp_path / "standin.onnx", [], len(classes))
            import_teacher(
                model,
                classes=classes,
                name=options["--name"],
                destination=home / "teachers" / options["--name"],
            )
    recipes = sorted(ROOT.glob("recipes/*.yaml"))
    assert len(recipes) >= 2
    for path in recipes:
        out = shell(
            [*DETCOMPOSE, "compose", str(path), "--dry-run", "--limit", "4", "--json"],
            tmp_path,
            **environment,
        )
        plan = json.loads(out)
        assert plan["images"]["count"] == 4
        assert plan["finished"] is False


def test_the_demo_can_be_planned(scenes: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copy(ROOT / "demo" / "recipe.yaml", tmp_path)
    (tmp_path / "teachers").symlink_to(TEACHERS)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "data").symlink_to(scenes)
    plan = json.loads(shell([*DETCOMPOSE, "compose", "recipe.yaml", "--dry-run", "--json"], tmp_path))
    assert plan["images"]["count"] == 24
    assert len(plan["label_space"]["classes"]) == 10


def test_cleaning_up_leaves_what_cannot_be_made_again() -> None:
    """Teachers, students and the registry are in the home folder."""
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "demo/output" in done.stdout
    assert ".detcompose" not in done.stdout
