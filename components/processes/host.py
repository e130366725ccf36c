"""The cores and the memory that a process may use, within the limits of its control groups: a container's, or those of a batch system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")  # lines `0::PATH` (version 2) and `4:memory:PATH` (version 1)


def available_cores() -> tuple[float, str]:
    """The cores that this process may use, and the reason for a limit as text."""
    number = len(os.sched_getaffinity(0))
    limits = [limit for group in _groups("cpu") if (limit := _core_limit(group)) is not None]
    if limits and min(limits) < number:
        return round(min(limits), 1), f" (the container's limit; the machine shows {number})"
    return number, ""


def available_memory() -> tuple[int, int]:
    """Free and total bytes of the machine, or of the tightest limit."""
    import psutil

    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    for group in _groups("memory"):
        limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < machine.total:
            free, total = min(free, max(0, int(limit) - _memory_used(group))), min(total, int(limit))
    return free, total


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it. Of a folder that a container does not show, those above that are there."""
    for line in _text(MEMBERSHIP).splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        roots = [CGROUP, CGROUP / "unified"] if not controllers else [CGROUP / controllers, CGROUP / controller]
        if controllers and controller not in controllers.split(","):
            continue
        for root in dict.fromkeys(roots):
            folder = root / path.lstrip("/")
            yield from (part for part in (folder, *folder.parents) if part.is_relative_to(root) and part.is_dir())


def _core_limit(group: Path) -> float | None:
    quota, period = [*_text(group / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _memory_used(group: Path) -> int:
    """Bytes in use but for cached files, which the kernel drops on demand."""
    usage = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    used = int(_text(group / "memory.current") or _text(group / "memory.usage_in_bytes") or 0)
    return used - int(usage.get("total_inactive_file") or usage.get("inactive_file") or 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
