"""Finds the runs and stages that work in a checkout, without disturbing them.

- Only the operating system knows whether a lock is locked; the file names its last holder. The test takes the lock for an instant, so it
  is skipped where no live process could hold the lock.
- Marked processes without a locked lock are leftovers of an earlier run.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.checkout import Checkout
from components.files import read_json
from components.processes.marks import RUN_MARK, MarkedProcess, checkout_mark, identity, marked
from components.stages import STAGE_NAMES


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, and its start (UTC). For a lock that a parent handed down, the parent."""

    pid: int
    command: str
    started: datetime


@dataclass(frozen=True)
class Activity:
    """The holders of the run lock and of the stages' locks, and the live processes with the checkout's mark."""

    run: Holder | None
    stages: dict[str, Holder]
    processes: list[MarkedProcess]

    @property
    def busy(self) -> bool:
        """Whether a run or a stage is under way."""
        return self.run is not None or bool(self.stages)

    @property
    def leftovers(self) -> list[MarkedProcess]:
        """Processes of earlier runs: neither a run nor their stage is under way."""
        own = os.environ.get(RUN_MARK)
        return [p for p in self.processes if self.run is None and stage_of(p) not in self.stages and p.run_mark != own]


def activity(checkout: Checkout) -> Activity:
    """What runs in `checkout` now."""
    locks = checkout.locks
    processes = marked(RUN_MARK, checkout_mark(checkout))
    holders = {name: _holder(locks / f"{name}.lock", handed_down=bool(processes)) for name in ("run", *STAGE_NAMES)}
    return Activity(holders["run"], {name: holder for name in STAGE_NAMES if (holder := holders[name]) is not None}, processes)


def stage_of(process: MarkedProcess) -> str | None:
    """The stage of a marked process; None for a process of the whole run."""
    return process.stage_mark.partition(":")[0] or None


def is_locked(path: Path) -> bool:
    """Whether any process holds the lock on `path`. Takes a free lock for an instant, shared."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(path: Path, *, handed_down: bool) -> Holder | None:
    try:
        noted = read_json(path)
        pid, command, started = int(noted["pid"]), str(noted["command"]), path.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        pid, command, started = 0, "unknown", 0.0  # not written yet, or damaged: the lock itself decides
    if pid and identity(pid) is None and not handed_down:
        return None
    return Holder(pid, command, datetime.fromtimestamp(started, UTC)) if is_locked(path) else None
