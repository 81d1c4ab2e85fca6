"""How many processors this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "DETCOMPOSE_THREADS"
"""Threads that computing may take; default: the processors that this process may run on."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Processors for this process: what is asked for, else its affinity within its container's quota.

    ``os.cpu_count`` counts the whole machine: a container with two of 64
    processors would run 64 threads that wait for one another.
    """
    found = _affinity()
    return _asked() or max(1, min(found, _quota() or found))


def thread_limit() -> int:
    """What runtimes have to be told that see only the affinity; 0: their own choice is right."""
    return _asked() or (usable_cores() if usable_cores() < _affinity() else 0)


def _asked() -> int:
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isdecimal() else 0


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> int | None:
    """The container's share of processors, rounded up; None: no limit (or cgroups of version 1)."""
    try:
        quota, period = _QUOTA.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # not Linux; "max": no limit
        return None
