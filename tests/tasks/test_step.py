"""What is tried again, and what is not, on a real Prefect server."""

from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException
from prefect import flow

from composition.errors import UserError
from tasks.step import may_pass, step


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("error", "attempts"),
    [(ConnectionResetError("gone"), 3), (UserError("wrong", "mend it"), 1), (ValueError("bug"), 1)],
)
def test_only_what_passes_is_tried_again(error: Exception, attempts: int) -> None:
    calls = []

    def work() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return "done"

    once = step(work, "work").with_options(retry_delay_seconds=0)

    @flow(persist_result=False)
    def run() -> str:
        return once()

    if attempts == 3:
        assert run() == "done"
    else:
        with pytest.raises(type(error)):
            run()
    assert len(calls) == attempts


def test_errors_that_pass() -> None:
    assert may_pass(requests.ConnectionError())
    assert may_pass(requests.ReadTimeout())
    assert not may_pass(requests.HTTPError())
    assert not may_pass(MlflowException("no", error_code=5))
    assert not may_pass(OSError(28, "disk full"))
