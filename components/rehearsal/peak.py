"""The peak memory of a process and its ranks, seen from outside: proportional set sizes, polled.

A page that several processes share counts in parts, so that the metrics of the ranks add up. (Peak resident sizes would count torch's
libraries once a rank.) A rank's worker processes count as the rank's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Self

import psutil

from components.stages import module

POLL_SECONDS = 0.1
LARGEST_SHARE = 0.1  # of a core: the system counts a large process's pages for a tenth of a second, which the stages' rates would show
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
        own = total = _bytes(top)
        for child in top.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used = _bytes(child)
                total += used
                if _is_rank(child.cmdline()):
                    self.rank = max(self.rank, used + sum(map(_bytes, child.children(recursive=True))))
        self.own, self.total = max(self.own, own), max(self.total, total)


def _is_rank(command: list[str]) -> bool:
    """Whether a command line is a rank's, and not that of torchrun, which names the rank's module too."""
    return RANK in command and not any(word.startswith("--nproc-per-node") for word in command)


def _bytes(process: psutil.Process) -> int:
    """The proportional set size of a process; 0 where it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
