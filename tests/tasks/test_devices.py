"""A device is had by one at a time: between processes, and on a real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from composition.errors import UserError
from flows.deployments.register import make_limits
from tasks import devices
from tasks.devices import Device, chosen_devices, reserve_device, reserve_devices
from tests.flows.conftest import ROOT

HOLD = """
import sys
from tasks.devices import Device, reserve_device
with reserve_device([Device("cuda:0", sys.argv[1])]) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def device() -> Iterator[Device]:
    found = Device("cuda:0", uuid.uuid4().hex[:8])
    yield found
    found.lock_file.unlink(missing_ok=True)


def test_without_a_gpu_the_processor_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VARIABLE, "cpu")
    with reserve_device() as one, reserve_device() as two:
        assert one == two == "cpu"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VARIABLE, "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        chosen_devices()


def test_another_process_waits_and_a_killed_one_gives_it_back(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.05)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, device.identity],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"cuda:0\n"
    got = threading.Event()

    def take() -> None:
        with reserve_device([device]):
            got.set()

    waiting = threading.Thread(target=take)
    waiting.start()
    assert not got.wait(0.5)
    # of two devices, the free one is taken
    other = Device("cuda:1", device.identity + "x")
    with reserve_device([device, other]) as name:
        assert name == "cuda:1"

    # who wants both waits without keeping the free one from others
    def take_both() -> None:
        with reserve_devices(2, [other, device]) as names:
            both.append(names)

    both: list[tuple[str, ...]] = []
    greedy = threading.Thread(target=take_both)
    greedy.start()
    time.sleep(0.5)
    with reserve_device([other]) as name:
        assert name == "cuda:1"
    assert not both
    holder.kill()
    holder.communicate()
    assert got.wait(20)
    waiting.join()
    greedy.join(20)
    assert both == [("cuda:1", "cuda:0")]
    other.lock_file.unlink()


def test_as_many_devices_as_processes(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCOMPOSE_DEVICE", "cpu")
    with reserve_devices(3) as names:
        assert names == ("cpu", "cpu", "cpu")
    with pytest.raises(UserError, match=r"student\.processes is 2, and the GPUs here are cuda:0"):
        reserve_devices(2, [device]).__enter__()


@pytest.mark.usefixtures("prefect_server")
def test_deployed_runs_also_take_the_slot_on_the_server(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid.uuid4()))
    with pytest.raises(UserError, match="has no concurrency limit 'gpu-") as caught, reserve_device([device]):
        pass
    assert "detcompose deploy" in caught.value.way_out
    make_limits([device])
    with get_client(sync_client=True) as client:

        def active() -> int:
            return client.read_global_concurrency_limit_by_name(device.limit).active_slots

        with reserve_device([device]) as name:
            assert name == "cuda:0"
            assert active() == 1
        assert active() == 0
