"""New teacher, new student; and nothing at all for whoever is not the registry."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.recipe import load_recipe
from flows.recompose import recompose
from flows.relay.verify import DELIVERY, SIGNATURE, TIMESTAMP
from tasks import registry, tracking
from tasks.registration import register_teacher
from tasks.teachers import find
from tests.flows.conftest import TEACHERS
from tests.flows.relay.conftest import KEY, System, runs_of, webhook
from tests.flows.relay.test_verify import headers
from tests.servers import wait_until

SOON = 5.0
"""Seconds from the registration of a teacher to the run, as promised."""


def event(name: str = "teachers.x", **changes: object) -> bytes:
    data = {"name": name, "version": "1", "source": "", "run_id": None, "tags": {}, "description": None}
    return json.dumps({"entity": "model_version", "action": "created", "data": data, **changes}).encode()


def send(system: System, body: bytes, head: dict[str, str]) -> int:
    address = urlsplit(system.relay)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request("POST", address.path, body, {"Content-Type": "application/json", **head})
    status = connection.getresponse().status
    connection.close()
    return status


def signed(body: bytes, **changes: object) -> dict[str, str]:
    options = {"at": int(time.time()), "delivery": str(uuid.uuid4()), "key": KEY} | changes
    return headers(body, **options)  # type: ignore[arg-type]


def aliases(system: System) -> dict[str, str]:
    found = tracking.client(system.home).get_registered_model("students.auto").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_new_teacher_makes_a_new_student_with_no_hand_on_it(system: System, deployed: Path) -> None:
    connection = tracking.client(system.home)
    assert runs_of("recompose") == []
    with webhook(system):
        low = find(system.home, str(TEACHERS / "digits-low"))
        register_teacher(system.home, low, "auto-low")
        registered = time.monotonic()
        wait_until(lambda: len(runs_of("recompose")) >= 1, 60, "a run of recompose")
        print(f"run after {time.monotonic() - registered:.1f} s")
        wait_until(lambda: registry.versions(connection, "students.auto") != [], 600, "a student", 2)
    (student,) = registry.versions(connection, "students.auto")
    assert student.tags["parent.auto-low"] == "models:/teachers.auto-low/1"
    (composed,) = runs_of("compose")
    assert composed.idempotency_key == f"composition-{student.tags['composition']}-1"
    wait_until(lambda: all(run.state.is_final() for run in runs_of("recompose")), 300, "the end", 2)

    # the webhook is gone: the schedule's flow finds the next teacher, and two at once start one run
    high = find(system.home, str(TEACHERS / "digits-high"))
    register_teacher(system.home, high, "auto-high")
    before = len(runs_of("recompose"))
    recipe = load_recipe(deployed)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: recompose.fn(recipe, hand_over_to="compose/auto"), range(2)))
    assert [one["action"] for one in both] == ["handed over"] * 2
    assert both[0]["flow_run"] == both[1]["flow_run"]
    assert set(both[0]["teachers"]) == {"auto-low", "auto-high"}
    wait_until(lambda: "challenger" in aliases(system), 600, "a challenger", 2)
    assert len(runs_of("recompose")) == before, "no webhook, no run"
    assert len(runs_of("compose")) == 2
    newest = registry.versions(connection, "students.auto")[0]
    assert aliases(system) == {"champion": str(student.version), "challenger": str(newest.version)}

    start = time.monotonic()
    again = recompose.fn(recipe, hand_over_to="compose/auto")
    assert (again["action"], again["model"]) == ("nothing", registry.uri(newest))
    assert time.monotonic() - start < 15


def test_a_burst_is_one_run_and_the_same_state_is_none(system: System, deployed: Path) -> None:
    before = len(runs_of("recompose"))
    name = f"auto-{uuid.uuid4().hex[:6]}"
    connection = tracking.client(system.home)
    low = find(system.home, str(TEACHERS / "digits-low"))
    # a state of the registry that no run has seen yet, told of ten times
    register_teacher(system.home, low, "burst", alias=name)
    bodies = [event("teachers.burst", action="created") for _ in range(10)]
    assert {send(system, body, signed(body)) for body in bodies} == {202}
    wait_until(lambda: len(runs_of("recompose")) > before, 60, "a run")
    time.sleep(SOON)
    assert len(runs_of("recompose")) == before + 1
    body = event("teachers.burst")
    assert send(system, body, signed(body)) == 202
    time.sleep(SOON)
    assert len(runs_of("recompose")) == before + 1
    connection.delete_registered_model("teachers.burst")


@pytest.mark.usefixtures("deployed")
def test_what_the_registry_did_not_say_does_nothing(system: System) -> None:
    connection = tracking.client(system.home)
    low = find(system.home, str(TEACHERS / "digits-low"))
    # any believed delivery would start a run now
    register_teacher(system.home, low, "unheard", alias=f"a-{uuid.uuid4().hex[:6]}")
    before = len(runs_of("recompose"))
    body = event()
    now = int(time.time())
    used = signed(body)
    statuses = {
        "forged": send(system, body, signed(body, key="another-secret-0123456789")),
        "unsigned": send(system, body, {}),
        "changed": send(system, body + b" ", signed(body)),
        "stale": send(system, body, signed(body, at=now - 400)),
        "early": send(system, body, signed(body, at=now + 400)),
        "malformed": send(system, b"{", signed(b"{")),
        "no event": send(system, b"[]", signed(b"[]")),
        "oversize": send(system, b" " * 300_000, signed(b" " * 300_000)),
        "student": send(system, event("students.x"), signed(event("students.x"))),
        "other event": send(system, event(entity="prompt"), signed(event(entity="prompt"))),
        "half signed": send(system, body, {key: used[key] for key in (DELIVERY, TIMESTAMP)}),
        "other id": send(system, body, {**used, DELIVERY: "other"}),
        "no version": send(system, body, {**used, SIGNATURE: used[SIGNATURE][3:]}),
    }
    assert statuses == {
        "forged": 401,
        "unsigned": 401,
        "changed": 401,
        "stale": 401,
        "early": 401,
        "malformed": 400,
        "no event": 400,
        "oversize": 413,
        "student": 200,
        "other event": 200,
        "half signed": 401,
        "other id": 401,
        "no version": 401,
    }
    time.sleep(SOON)
    assert len(runs_of("recompose")) == before
    assert send(system, body, used) == 202
    wait_until(lambda: len(runs_of("recompose")) == before + 1, 60, "the run of the one that is believed")
    assert [send(system, body, used) for _ in range(3)] == [200] * 3, "replayed"
    connection.delete_registered_model("teachers.unheard")
    time.sleep(SOON)
    assert len(runs_of("recompose")) == before + 1
