"""Teachers in a real registry: versions, aliases, downloads that are verified."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from composition.errors import UserError
from model_zoo import bundle
from tasks import registry, tracking
from tasks.home import Home
from tasks.references import parse
from tasks.registration import register_teacher, with_origins
from tasks.teachers import find, find_all
from tests.tasks.registered import detector

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["server", "file"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """On a real server, and on the SQLite file that is the default."""
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("mlflow_address"))
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Home(tmp_path / "home")


def test_a_teacher_is_registered_once_and_found_by_alias(home: Home, tmp_path: Path) -> None:
    first = detector(tmp_path, "pets")
    done = register_teacher(home, first, "pets", tags={"pool": "a"})
    assert done.new
    version = done.version
    assert version.tags | {"digest": first.digest, "role": "teacher", "classes": "cat, dog"} == version.tags
    assert version.tags["license"] == "MIT"
    assert version.tags["pool"] == "a"
    assert "cat, dog" in version.description
    again = register_teacher(home, first, "pets")
    assert (again.new, again.version.version) == (False, version.version)

    found = find(home, "teachers/pets@champion")
    assert (found.name, found.digest, found.origin) == ("pets", first.digest, "models:/teachers.pets/1")
    assert found.folder == home.registry / first.digest

    second = detector(tmp_path, "pets2", rows=[(20, 20, 10, 10, 1, 0.9)])
    register_teacher(home, second, "pets", alias="challenger")
    assert find(home, "teachers/pets@champion").digest == first.digest
    assert find(home, "models:/teachers.pets@challenger").digest == second.digest
    register_teacher(home, second, "pets")
    assert find(home, "teachers/pets@champion").origin == "models:/teachers.pets/2"
    assert find(home, "teachers/pets@1").digest == first.digest
    assert find(home, "models:/teachers.pets/1").digest == first.digest

    register_teacher(home, detector(tmp_path, "cars", classes=("car", "bus")), "pets-not", tags={"pool": "b"})
    assert {one.name for one in find_all(home, ["teachers/pets*@champion"])} == {"pets", "pets-not"}
    assert [one.name for one in find_all(home, ["teachers/pets*@champion?pool=b"])] == ["pets-not"]
    # a recipe that names the bundle's folder has the same lineage
    assert with_origins(tracking.client(home), [first])[0].origin == "models:/teachers.pets/1"


def test_what_is_not_there_is_told_with_what_is(home: Home, tmp_path: Path) -> None:
    register_teacher(home, detector(tmp_path, "boats"), "boats")
    with pytest.raises(UserError, match=r"no teachers/boat\b.*\n.*Did you mean teachers/boats"):
        find(home, "teachers/boat@champion")
    with pytest.raises(UserError, match=r"no teachers/boats@challenger\n.*aliases: champion"):
        find(home, "teachers/boats@challenger")
    with pytest.raises(UserError, match="no teachers/boats@7"):
        find(home, "teachers/boats@7")
    with pytest.raises(UserError, match="no version in the registry matches"):
        find_all(home, ["teachers/nothing-*@champion"])
    with pytest.raises(UserError, match="is detcompose's own"):
        register_teacher(home, detector(tmp_path, "b2"), "b2", tags={"digest": "0"})
    with pytest.raises(UserError, match="cannot be a name in the registry"):
        register_teacher(home, detector(tmp_path, "b3"), "B 3")


def test_a_version_holds_data_and_no_code(home: Home, tmp_path: Path) -> None:
    done = register_teacher(home, detector(tmp_path, "plain"), "plain")
    place = Path(
        download_artifacts(
            run_id=done.version.run_id,
            artifact_path="teacher",
            dst_path=str(tmp_path / "all"),
            tracking_uri=home.tracking_uri,
        )
    )
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert {"MLmodel", "requirements.txt", "data/bundle/manifest.json"} <= files
    assert not [name for name in files if Path(name).suffix in (".pkl", ".py", ".pickle", ".pt", ".pth")]
    flavor = yaml.safe_load((place / "MLmodel").read_text())["flavors"]
    assert list(flavor) == ["python_function"]
    assert flavor["python_function"]["loader_module"] == "tasks.serving"
    assert "code" not in flavor["python_function"]
    assert "detcompose" not in (place / "requirements.txt").read_text()


def test_bytes_that_were_changed_in_the_store_are_refused(home: Home, tmp_path: Path) -> None:
    done = register_teacher(home, detector(tmp_path, "soft"), "soft")
    connection = tracking.client(home)
    other = detector(tmp_path, "evil", rows=[(5, 5, 5, 5, 0, 0.9)])
    artifact = "teacher/data/bundle"
    for file in other.folder.iterdir():
        connection.log_artifact(done.version.run_id, str(file), artifact)
    with pytest.raises(UserError, match=r"has the digest .* the version is tagged with"):
        find(home, "teachers/soft@champion")
    assert not [path for path in home.registry.iterdir() if path.is_dir()], "nothing is left"

    connection.set_model_version_tag("teachers.soft", done.version.version, "digest", other.digest)
    (other.folder / "model.onnx").write_bytes(b"\0" * 10)
    connection.log_artifact(done.version.run_id, str(other.folder / "model.onnx"), artifact)
    with pytest.raises(UserError, match="sha256 differs"):
        find(home, "teachers/soft@champion")


def test_what_others_registered_is_not_taken(home: Home, tmp_path: Path) -> None:
    connection: MlflowClient = tracking.client(home)
    done = register_teacher(home, detector(tmp_path, "own"), "own")
    connection.delete_model_version_tag("teachers.own", done.version.version, "digest")
    with pytest.raises(UserError, match="was not registered by detcompose"):
        find(home, "teachers/own@champion")


def test_a_fetched_bundle_is_kept_and_checked(home: Home, tmp_path: Path) -> None:
    done = register_teacher(home, detector(tmp_path, "kept"), "kept")
    connection = tracking.client(home)
    folder = registry.fetch(home, connection, done.version)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert registry.fetch(home, connection, done.version) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    assert bundle.read(folder).digest == done.version.tags["digest"]
    assert str(registry.resolve(connection, parse("teachers/kept@1")).version) == "1"


def test_a_version_has_its_card_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed after that registers nothing again, and so would never write it."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(MlflowClient, "update_model_version", killed)
    done = register_teacher(Home(tmp_path / "home"), detector(tmp_path, "pets"), "pets")
    assert "cat, dog" in done.version.description


def test_two_that_register_a_new_name_at_once_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "home")
    register_teacher(home, detector(tmp_path, "pets"), "pets")
    # the other one has looked before this one made the name
    monkeypatch.setattr(MlflowClient, "search_registered_models", lambda *_, **__: [])
    other = detector(tmp_path, "pets2", rows=[(20, 20, 10, 10, 1, 0.9)])
    assert register_teacher(home, other, "pets").version.version == 2


def test_two_that_fetch_a_version_at_once_download_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one must not replace the files that the first one has open."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "home")
    version = register_teacher(home, detector(tmp_path, "pets"), "pets").version
    (home.registry / f".{version.tags['digest']}.killed" / "data").mkdir(parents=True)
    connection, downloads = tracking.client(home), []
    download = registry.download

    def counted(*arguments: object) -> object:
        downloads.append(arguments)
        return download(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "download", counted)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: registry.fetch(home, connection, version), range(4)))
    assert folders == {home.registry / version.tags["digest"]}
    assert len(downloads) == 1
    assert [path for path in home.registry.iterdir() if path.is_dir()] == list(folders), "nothing is left"
