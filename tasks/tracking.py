"""MLflow: a run per composition, a child run per step.

All calls carry the run id: MLflow's "active run" is thread-local and would mix
up parallel steps. The default is a SQLite file below the home folder; with
``MLFLOW_TRACKING_URI`` set, everything goes to that server instead.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE

from composition.errors import UserError
from composition.label_space import LabelSpace
from composition.label_space import digest as label_space_digest
from tasks.home import Home
from tasks.store import disk_errors

COMPOSITION_TAG = "detcompose.composition"
STEP_TAG = "detcompose.step"
RECORD_TAG = "detcompose.record"
REVIEW_TAG = "detcompose.review"
DETECTOR_TAG = "detcompose.detector"
_PARAM_LIMIT = 6000
_BATCH_LIMIT = 100
_NAME_LIMIT = 250
_REFUSED = re.compile(r"[^\w.\- :/]|(?<=/)/|/$")
"""What MLflow takes in no name: other characters, and slashes that part nothing."""

T = TypeVar("T")


def client(home: Home) -> MlflowClient:
    """A client of the tracking server, or of our own SQLite file.

    Raises:
        UserError: The server cannot be reached.
    """
    uri = home.tracking_uri
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).parent
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        connected = MlflowClient(tracking_uri=uri, registry_uri=home.registry_uri)
        connected.search_experiments(max_results=1)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            _without_password(f"MLflow at {uri} does not answer: {reason}"),
            "Start the server, or unset MLFLOW_TRACKING_URI to use a local SQLite file.",
        ) from error
    return connected


def every(page_of: Callable[[str | None], PagedList[T]]) -> list[T]:
    """Everything that a search of MLflow's finds, page after page.

    Args:
        page_of: The search, given the token of a page; None is the first.
    """
    page = page_of(None)
    found = list(page)
    while page.token:
        page = page_of(page.token)
        found += page
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """One MLflow run.

    Attributes:
        client: The connection.
        experiment_id: Its experiment.
        run_id: Its id.
    """

    client: MlflowClient
    experiment_id: str
    run_id: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs parameters, nested ones with dotted names.

        A run that goes on keeps what it began with: MLflow lets no parameter
        change, and one that decides something would have made another run.
        """
        known = self.client.get_run(self.run_id).data.params
        flat = {_accepted(name): str(value)[:_PARAM_LIMIT] for name, value in _flatten(values)}
        new = [Param(name, value) for name, value in flat.items() if name not in known]
        self.client.log_batch(self.run_id, params=new)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers at a step."""
        now = int(time.time() * 1000)
        entries = [Metric(_accepted(name), float(value), now, step) for name, value in values.items()]
        for start in range(0, len(entries), _BATCH_LIMIT):
            self.client.log_batch(self.run_id, metrics=entries[start : start + _BATCH_LIMIT])

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in values.items()])

    def dataset(self, name: str, context: str, source: Path, digest: str) -> None:
        """Logs an image set that the run has read; repeating the same is no error.

        Args:
            name: How it is called.
            context: What for, e.g. ``unlabeled`` or ``evaluation``.
            source: Where it lay.
            digest: Our digest of its content; MLflow keeps the first 36 letters.
        """
        entry = Dataset(
            name=name,
            digest=digest[:MAX_DATASET_DIGEST_SIZE],
            source_type="local",
            source=json.dumps({"uri": str(source)}),
        )
        tags = [InputTag(key="mlflow.data.context", value=context)]
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(entry, tags)])

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Logs a file or a folder."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)

    @property
    def place(self) -> str:
        """Where MLflow's UI shows the run, relative to the server's root."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}"

    @property
    def page(self) -> str | None:
        """Address of the run in MLflow's UI, None where there is no server."""
        server = _server_of(self.client)
        return server and f"{server}/{self.place}"

    def artifact_page(self, path: str) -> str | None:
        """Address at which MLflow's UI shows one of the run's files."""
        return self.page and f"{self.page}/artifacts/{path}"

    def file_link(self, path: str) -> str | None:
        """Address of the bytes of one of the run's files."""
        server = _server_of(self.client)
        return server and f"{server}/get-artifact?path={quote(path, safe='')}&run_uuid={self.run_id}"

    @contextmanager
    def child(self, step: str) -> Iterator[Run]:
        """A child run for a step; one that was killed is taken up again."""
        tags = {STEP_TAG: step, "mlflow.parentRunId": self.run_id}
        with _open(self.client, self.experiment_id, step, tags) as run:
            yield run


def _server_of(connection: MlflowClient) -> str | None:
    uri = str(connection.tracking_uri)
    if not uri.startswith(("http://", "https://")):
        return None
    # a password in the address is for programs, not for pages that everybody reads
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def experiment(connection: MlflowClient, home: Home, space: LabelSpace) -> str:
    """The experiment of a label space, made when missing: its students are comparable."""
    digest = label_space_digest(space)
    shown = ", ".join(space.classes[:4]) + (", ..." if len(space.classes) > 4 else "")
    name = f"{len(space.classes)} classes: {shown} [{digest[:8]}]"
    return named_experiment(connection, home, name, digest[:16], {"label_space": digest})


def named_experiment(
    connection: MlflowClient,
    home: Home,
    name: str,
    folder: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """An experiment by name, made when missing.

    Args:
        connection: The tracking server.
        home: Keeps the artifacts where there is no server.
        name: Of the experiment.
        folder: Name of its folder there; default: its own.
        tags: Tags that it gets when it is made.
    """
    existing = connection.get_experiment_by_name(name)
    if existing:
        return str(existing.experiment_id)
    # a server has its own artifact store; SQLite alone would write ./mlruns
    own = home.tracking_uri.startswith("sqlite:///")
    location = (home.mlflow_artifacts / (folder or name)).as_uri() if own else None
    try:
        return str(connection.create_experiment(name, artifact_location=location, tags=dict(tags or {})))
    except MlflowException as error:
        # two that begin at the same moment: the other one was first
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return named_experiment(connection, home, name, folder, tags)


@contextmanager
def composition_run(
    connection: MlflowClient, experiment_id: str, name: str, digest: str, record: str | None = None
) -> Iterator[Run]:
    """The run of a composition; a failed or killed one of the same digests goes on.

    Args:
        connection: The tracking server.
        experiment_id: Where the run is.
        name: Its name.
        digest: Of the composition.
        record: Digest of the composition together with its name and with what is
            measured; the same student under another name is another run.
    """
    tags = {COMPOSITION_TAG: digest} | ({RECORD_TAG: record} if record else {})
    with _open(connection, experiment_id, name, tags) as run:
        yield run


@contextmanager
def registration_run(connection: MlflowClient, experiment_id: str, name: str, digest: str) -> Iterator[Run]:
    """The run that keeps a registered detector's files."""
    with _open(connection, experiment_id, name, {DETECTOR_TAG: digest}) as run:
        yield run


@contextmanager
def review_run(connection: MlflowClient, experiment_id: str, name: str, digest: str) -> Iterator[Run]:
    """The run that keeps the evidence for questions to a person."""
    with _open(connection, experiment_id, name, {REVIEW_TAG: digest}) as run:
        yield run


@contextmanager
def _open(connection: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    earlier = connection.search_runs([experiment_id], query, max_results=1)
    if earlier:
        run_id = earlier[0].info.run_id
        connection.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    else:
        run_id = connection.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
    status = RunStatus.FAILED
    try:
        yield Run(connection, experiment_id, run_id)
        status = RunStatus.FINISHED
    except Exception:
        raise
    except BaseException:
        # Ctrl-C, SIGTERM, and a run that was cancelled on the Prefect server
        status = RunStatus.KILLED
        raise
    finally:
        connection.set_terminated(run_id, RunStatus.to_string(status))


def _accepted(name: str) -> str:
    """A name as MLflow takes it: classes and detectors are called by people."""
    return _REFUSED.sub("_", name)[:_NAME_LIMIT]


def _without_password(text: str) -> str:
    """A text in which no address holds a login: it goes to logs, and into states that everybody reads."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield f"{prefix}{name}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{name}", value
