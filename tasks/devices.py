"""Which device a task computes on, and that no other task computes there meanwhile.

Two guards: a file lock keeps the processes of one machine apart, whoever
started them; a concurrency slot on the Prefect server does the same for
deployed runs and shows in the UI who holds the device. Processors are shared,
only GPUs are reserved.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment

from composition.errors import UserError

log = logging.getLogger("detcompose")

VARIABLE = "DETCOMPOSE_DEVICE"
"""``auto`` (default: a free GPU, without one the processor), ``cpu``, or ``cuda:0`` and the like."""
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Device:
    """A device that one task may have at a time.

    Attributes:
        name: As torch calls it, e.g. ``cuda:0``.
        identity: Of the hardware, the same in all processes of the machine.
    """

    name: str
    identity: str

    @property
    def limit(self) -> str:
        """Name of its concurrency limit on the Prefect server."""
        return f"gpu-{socket.gethostname().split('.')[0]}-{self.identity}"

    @property
    def lock_file(self) -> Path:
        """File whose lock its user holds."""
        return Path(tempfile.gettempdir()) / f"detcompose-gpu-{self.identity}.lock"


def gpus() -> list[Device]:
    """The GPUs that this process can see."""
    nodes = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg"), *Path("/dev").glob("kfd")]
    if not nodes:
        return []  # without asking torch, whose import takes seconds
    import torch

    # the number of a device depends on CUDA_VISIBLE_DEVICES, its uuid does not
    return [
        Device(f"cuda:{number}", str(torch.cuda.get_device_properties(number).uuid)[:8])
        for number in range(torch.cuda.device_count())
    ]


def chosen_devices() -> list[Device]:
    """The GPUs that a task may take; none: it computes on the processor.

    Raises:
        UserError: ``DETCOMPOSE_DEVICE`` names a device that there is not.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted == "cpu":
        return []
    found = gpus()
    if wanted == "auto":
        return found
    fitting = [device for device in found if device.name == wanted]
    if not fitting:
        known = ", ".join(["cpu", *(device.name for device in found)])
        raise UserError(f"{VARIABLE} is {wanted!r}, and there is no such device", f"There are: {known}.")
    return fitting


def enough_devices(count: int, devices: Sequence[Device] | None = None) -> Sequence[Device]:
    """The GPUs that so many processes may choose from; none: they compute on the processor.

    Args:
        count: How many processes, each on a GPU of its own.
        devices: To choose from; default: what `chosen_devices` says.

    Raises:
        UserError: There are not so many, or the environment names one that there is not.
    """
    among = chosen_devices() if devices is None else devices
    if among and count > len(among):
        known = ", ".join(device.name for device in among)
        raise UserError(
            f"student.processes is {count}, and the GPUs here are {known}",
            f"Lower it to at most {len(among)}.",
        )
    return among


@contextmanager
def reserve_device(devices: Sequence[Device] | None = None) -> Iterator[str]:
    """Waits for a device and keeps all others from it.

    Args:
        devices: To choose from; default: what `chosen_devices` says.

    Yields:
        The name of the device for torch, e.g. ``cuda:0`` or ``cpu``.

    Raises:
        UserError: The Prefect server has no limit for the device.
    """
    with reserve_devices(1, devices) as (device,):
        yield device


@contextmanager
def reserve_devices(count: int, devices: Sequence[Device] | None = None) -> Iterator[tuple[str, ...]]:
    """Waits for so many devices at once and keeps all others from them.

    Args:
        count: How many, at least 1.
        devices: To choose from; default: what `chosen_devices` says.

    Yields:
        Their names for torch, e.g. ``cuda:0``; ``cpu`` so many times without a GPU.

    Raises:
        UserError: There are not so many, or the Prefect server has no limit
            for one of them.
    """
    among = enough_devices(count, devices)
    if not among:
        yield ("cpu",) * count
        return
    with _locked(among, count) as locked, ExitStack() as slots:
        for device in locked:
            slots.enter_context(_slot(device))
        yield tuple(device.name for device in locked)


@contextmanager
def _locked(devices: Sequence[Device], count: int) -> Iterator[list[Device]]:
    """Takes the first so many free devices, all or none, lest two that wait block each other."""
    said = False
    while True:
        with ExitStack() as locks:
            taken: list[Device] = []
            for device in devices:
                # whoever runs on this machine, under any user
                lock = FileLock(device.lock_file, mode=0o666)
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                locks.callback(lock.release)
                taken.append(device)
                if len(taken) == count:
                    yield taken
                    return
        if not said:
            log.info("waiting for %s: another process has it", " or ".join(d.name for d in devices))
            said = True
        time.sleep(POLL_SECONDS)


@contextmanager
def _slot(device: Device) -> Iterator[None]:
    """The device's slot on the server, for deployed runs.

    Without ``strict``, a limit that does not exist would limit nothing. A lease
    that could not be renewed must not end a training: the file lock still holds.
    """
    if deployment.id is None:
        yield
        return
    try:
        slot = concurrency(device.limit, strict=True, raise_on_lease_renewal_failure=False)
        slot.__enter__()
    except ConcurrencySlotAcquisitionError as error:
        raise UserError(
            f"the Prefect server has no concurrency limit {device.limit!r}",
            "Run `detcompose deploy` on this machine: it makes one for each of its GPUs.",
        ) from error
    try:
        yield
    finally:
        slot.__exit__(None, None, None)
