"""What an input may take at most: more is a finding, as an undocumented exception is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 5.0  # of CPU time, of the process and of those that it has waited for
MEMORY_BYTES = 2**30  # by which the process may grow at its peak
RESET_PEAK = "5"  # what Linux takes in clear_refs (proc(5))
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TooSlow(Exception):
    """An input took more CPU time than any may."""


class TooLarge(Exception):
    """An input took more memory than any may."""


@contextmanager
def watched(seconds: float = SECONDS) -> Iterator[None]:
    """Raises TooSlow or TooLarge after what took more, whether or not it raised. Memory is measured on Linux alone."""
    _reset_peak()
    started, before = _cpu_seconds(), _peak_bytes()
    try:
        yield
    finally:
        took, grown = _cpu_seconds() - started, _peak_bytes() - before
        if took > seconds:
            raise TooSlow(f"{took:.1f} s of CPU time, more than {seconds:g}")
        if grown > MEMORY_BYTES:
            raise TooLarge(f"{grown / 2**30:.1f} GiB of memory, more than {MEMORY_BYTES / 2**30:g}")


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _reset_peak() -> None:
    if CLEAR.exists():
        CLEAR.write_text(RESET_PEAK)


def _peak_bytes() -> int:
    """The most memory that the process has had since the peak was reset; 0 where that can't be read."""
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
