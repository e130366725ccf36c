"""The cores and the memory that a process may use, within its container's limits."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # holds a container's limits


def available_cores() -> tuple[float, str]:
    """The cores that this process may use, and the reason for a limit as text."""
    number = len(os.sched_getaffinity(0))
    limit = _cgroup("cpu.max").split()
    if len(limit) == 2 and limit[0] != "max" and int(limit[0]) / int(limit[1]) < number:
        return round(int(limit[0]) / int(limit[1]), 1), f" (the container's limit; the machine shows {number})"
    return number, ""


def available_memory() -> tuple[int, int]:
    """Free and total bytes of the machine, or of the container's limit."""
    import psutil

    machine = psutil.virtual_memory()
    limit = _cgroup("memory.max")
    if limit.isdecimal() and int(limit) < machine.total:
        usage = dict(line.split() for line in _cgroup("memory.stat").splitlines())
        used = int(_cgroup("memory.current") or 0) - int(usage.get("inactive_file", 0))  # the kernel drops cached files on demand
        return max(0, min(machine.available, int(limit) - used)), int(limit)
    return machine.available, machine.total


def _cgroup(name: str) -> str:
    try:
        return (CGROUP / name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
