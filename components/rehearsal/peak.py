"""The peak memory of a process and its ranks, seen from outside: proportional set sizes, polled.

A page that several processes share counts in parts, so that the metrics of the ranks add up. (Peak resident sizes would count torch's
libraries once a rank.) A rank's worker processes count as the rank's.

Between two polls memory can rise and fall. The kernel keeps the most resident bytes of a process, so what these are above the resident bytes of
the moment is added to what is polled, as pages that nobody shares.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from components.stages import module

POLL_SECONDS = 0.1
LARGEST_SHARE = 0.1  # of a core: the system counts a large process's pages for a tenth of a second, which the stages' rates would show
RESIDENT = {"VmHWM", "VmRSS"}  # in /proc/PID/status, in kB: the most, and now
RANK = module("worker")


class PeakMemory:
    """Polls the process `pid` and all below it, from `with` to its end. `rank`, `own` and `total`: most bytes of a rank, of `pid`, of all."""

    def __init__(self, pid: int) -> None:
        self.rank = 0
        self.own = 0
        self.total = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="peak memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        pause = POLL_SECONDS
        while not self._ended.wait(pause):
            began = time.thread_time()
            with contextlib.suppress(psutil.Error):
                self._read(psutil.Process(self._pid))
            pause = max(POLL_SECONDS, (time.thread_time() - began) / LARGEST_SHARE)

    def _read(self, top: psutil.Process) -> None:
        total, risen = _used(top)
        self.own = max(self.own, total + risen)
        for child in top.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used, risen = _used(child)
                total += used
                if _is_rank(child.cmdline()):
                    self.rank = max(self.rank, risen + _with_workers(child, used))
        self.total = max(self.total, total)


def _is_rank(command: list[str]) -> bool:
    """Whether a command line is a rank's, and not that of torchrun, which names the rank's module too."""
    return RANK in command and not any(word.startswith("--nproc-per-node") for word in command)


def _bytes(process: psutil.Process) -> int:
    """The proportional set size of a process; 0 where it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _used(process: psutil.Process) -> tuple[int, int]:
    """The proportional set size of a process, and how far the most resident bytes that it has had are above those of now.

    The system takes a while to count a large process's pages. What it frees meanwhile is in the first number, so that the resident bytes before
    and after bound the second one.
    """
    before, used, after = _resident(process), _bytes(process), _resident(process)
    return used, max(0, after.get("VmHWM", 0) - max(before.get("VmRSS", 0), after.get("VmRSS", 0)))


def _with_workers(rank: psutil.Process, used: int) -> int:
    """The bytes of a rank, of which it had `used` just now, and of its worker processes.

    A worker shares the rank's pages from its fork to its end. A fork or an end between two counts would count them twice: the rank's smaller
    count is the one in which they are shared.
    """
    workers = sum(map(_bytes, rank.children(recursive=True)))
    return workers + min(used, _bytes(rank) or used) if workers else used


def _resident(process: psutil.Process) -> dict[str, int]:
    """The process's RESIDENT in bytes; empty where it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    fields = (line.partition(":") for line in status.splitlines())
    return {name: 1024 * int(words.split()[0]) for name, _, words in fields if name in RESIDENT}
