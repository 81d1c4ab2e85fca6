"""What the relay believes."""

from __future__ import annotations

import base64
import json

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from flows.relay import events
from flows.relay.settings import Settings, read_secret
from flows.relay.verify import (
    DELIVERY,
    MAX_REMEMBERED,
    SIGNATURE,
    TIMESTAMP,
    TOLERANCE,
    RefusedError,
    Seen,
    check,
)

KEY = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000
BODY = json.dumps(
    {"entity": "model_version", "action": "created", "data": {"name": "teachers.x", "version": "1"}}
).encode()


def headers(body: bytes = BODY, at: int = NOW, delivery: str = "id-1", key: str = KEY) -> dict[str, str]:
    """As MLflow itself signs."""
    signature = _generate_hmac_signature(key, delivery, str(at), body.decode("latin-1"))
    return {DELIVERY: delivery, TIMESTAMP: str(at), SIGNATURE: signature}


def test_what_mlflow_signs_is_believed() -> None:
    assert check(headers(), BODY, KEY.encode(), NOW) == "id-1"
    assert check(headers(at=NOW - TOLERANCE), BODY, KEY.encode(), NOW) == "id-1"
    assert check(headers(at=NOW + TOLERANCE), BODY, KEY.encode(), NOW) == "id-1"
    # a sender that changes its key signs with both
    two = headers()
    two[SIGNATURE] = f"v1,{base64.b64encode(b'0' * 32).decode()} {two[SIGNATURE]}"
    assert check(two, BODY, KEY.encode(), NOW) == "id-1"


@pytest.mark.parametrize(
    "changes",
    [
        {SIGNATURE: ""},
        {SIGNATURE: "v1,"},
        {SIGNATURE: "v1,!!!"},
        {SIGNATURE: "v1," + base64.b64encode(b"0" * 32).decode()},
        {SIGNATURE: headers()[SIGNATURE].replace("v1,", "v2,")},
        {SIGNATURE: headers()[SIGNATURE].removeprefix("v1,")},
        {SIGNATURE: headers(key=KEY[:-1] + "0")[SIGNATURE]},
        {SIGNATURE: "v1,\u00e4"},
        {TIMESTAMP: ""},
        {TIMESTAMP: "soon"},
        {TIMESTAMP: "-5"},
        {TIMESTAMP: "\u0661\u0662"},
        {TIMESTAMP: "9" * 400},
        {TIMESTAMP: str(NOW + 1)},
        {DELIVERY: ""},
        {DELIVERY: "id-2"},
        {DELIVERY: "x" * 1000},
    ],
)
def test_forgeries_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(RefusedError):
        check(headers() | changes, BODY, KEY.encode(), NOW)


def test_other_bytes_and_other_times_are_refused() -> None:
    with pytest.raises(RefusedError, match="signature"):
        check(headers(), BODY + b" ", KEY.encode(), NOW)
    for at in (NOW - TOLERANCE - 1, NOW + TOLERANCE + 1):
        with pytest.raises(RefusedError, match="s old"):
            check(headers(at=at), BODY, KEY.encode(), NOW)


def test_a_delivery_is_new_once() -> None:
    seen = Seen()
    assert seen.add("a", NOW)
    assert not seen.add("a", NOW + 1)
    assert not seen.add("a", NOW + 2 * TOLERANCE)
    assert seen.add("a", NOW + 2 * TOLERANCE + 1), "it would be refused for its age by now"
    for number in range(MAX_REMEMBERED + 5):
        seen.add(str(number), NOW + 700)
    assert len(seen._until) <= MAX_REMEMBERED


def test_only_teachers_concern_us() -> None:
    found = events.parse(BODY)
    assert found is not None
    assert (found.model, found.version, found.alias) == ("teachers.x", "1", None)
    student = BODY.replace(b"teachers.x", b"students.x")
    assert events.parse(student) is None, "or every student would call for the next one"
    assert events.parse(BODY.replace(b'"created"', b'"deleted"')) is None
    alias = {"name": "teachers.x", "alias": "champion", "version": "2"}
    moved = {"entity": "model_version_alias", "action": "created", "data": alias}
    found = events.parse(json.dumps(moved).encode())
    assert found is not None
    assert found.alias == "champion"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"entity": 1}', b'{"entity":"a","action":"b","data":[]}', b"\xff",
             b"[" * 100_000, BODY.replace(b'"teachers.x"', b"7")],
)  # fmt: skip
def test_what_is_no_event_is_told(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        events.parse(body)


def test_the_secret_comes_from_the_environment_or_a_file(tmp_path) -> None:
    file = tmp_path / "secret"
    file.write_text(KEY + "\n")
    assert read_secret({"DETCOMPOSE_WEBHOOK_SECRET": KEY}) == KEY
    assert read_secret({"DETCOMPOSE_WEBHOOK_SECRET_FILE": str(file)}) == KEY
    settings = Settings.from_environment(
        {"DETCOMPOSE_WEBHOOK_SECRET": KEY, "DETCOMPOSE_RECOMPOSE_DEPLOYMENTS": "recompose/a, recompose/b"}
    )
    assert settings.deployments == ("recompose/a", "recompose/b")
    assert KEY not in repr(settings)
    for environment, reason in (
        ({}, "no secret"),
        ({"DETCOMPOSE_WEBHOOK_SECRET": "short"}, "has 5 letters"),
        ({"DETCOMPOSE_WEBHOOK_SECRET_FILE": str(tmp_path / "none")}, "cannot be read"),
    ):
        with pytest.raises(Exception, match=reason):
            read_secret(environment)
