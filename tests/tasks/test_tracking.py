"""What goes to MLflow, on its real database."""

from __future__ import annotations

from pathlib import Path

import pytest

from composition.errors import UserError
from tasks import tracking
from tasks.home import Home


def test_names_that_people_choose_are_taken(tmp_path: Path) -> None:
    """Classes and baselines may be called anything; MLflow refuses most of it in names."""
    home = Home(tmp_path)
    connection = tracking.client(home)
    experiment = tracking.named_experiment(connection, home, "names")
    with tracking.review_run(connection, experiment, "run", "digest") as run:
        run.params({"filter": {"per_class": {"cup (full)": 0.4, "TV//monitor": 0.5, "café au lait": 0.6}}})
        run.params({"filter": {"per_class": {"cup (full)": 0.9}}})
        run.metrics({"baseline supervised, all labels/AP": 61.5, "student/": 1})
    data = connection.get_run(run.run_id).data
    assert data.params == {
        "filter.per_class.cup _full_": "0.4",
        "filter.per_class.TV/_monitor": "0.5",
        "filter.per_class.café au lait": "0.6",
    }
    assert data.metrics == {"baseline supervised_ all labels/AP": 61.5, "student_": 1.0}


def test_an_address_is_shown_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:very-secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:1 does not answer") as caught:
        tracking.client(Home(tmp_path))
    assert "very-secret" not in str(caught.value)
