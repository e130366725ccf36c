"""What a process may use of this machine: cores and memory, as a container limits them."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where a container's limits stand


def available_cores() -> tuple[float, str]:
    """Cores that this process may use, and in words what limits them."""
    number = len(os.sched_getaffinity(0))
    limit = _cgroup("cpu.max").split()
    if len(limit) == 2 and limit[0] != "max" and int(limit[0]) / int(limit[1]) < number:
        return round(int(limit[0]) / int(limit[1]), 1), f" (the container's limit; the machine shows {number})"
    return number, ""


def available_memory() -> tuple[int, int]:
    """Free and total bytes, as the machine or the container's limit has them."""
    import psutil

    machine = psutil.virtual_memory()
    limit = _cgroup("memory.max")
    if limit.isdecimal() and int(limit) < machine.total:
        kept = dict(line.split() for line in _cgroup("memory.stat").splitlines())
        used = int(_cgroup("memory.current") or 0) - int(kept.get("inactive_file", 0))  # files in memory are dropped when it is needed
        return max(0, min(machine.available, int(limit) - used)), int(limit)
    return machine.available, machine.total


def _cgroup(name: str) -> str:
    try:
        return (CGROUP / name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
