"""What runs in a checkout at this moment, found without getting in its way.

- A lock counts as held when the operating system says so; what stands in its file is only who took it last. Asking takes the lock for
  an instant, so nobody is asked where no process is left that could hold it.
- Marked processes that belong to no held lock are left over from an earlier run.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.files import read_json
from components.processes.marks import RUN_MARK, MarkedProcess, checkout_mark, identity, marked
from components.stages import STAGE_NAMES


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, and since when (UTC). Under a lock that was handed on, the process that took it."""

    pid: int
    command: str
    started: datetime


@dataclass(frozen=True)
class Activity:
    """The holders of the run lock and of the stages' locks, and the live processes that carry the checkout's mark."""

    run: Holder | None
    stages: dict[str, Holder]
    processes: list[MarkedProcess]

    @property
    def busy(self) -> bool:
        """Whether a run or a stage is under way."""
        return self.run is not None or bool(self.stages)

    @property
    def leftovers(self) -> list[MarkedProcess]:
        """Processes of earlier runs: no run is under way, and no copy of their stage."""
        own = os.environ.get(RUN_MARK)
        return [p for p in self.processes if self.run is None and stage_of(p) not in self.stages and p.run_mark != own]


def activity(root: Path) -> Activity:
    """What runs in the checkout at `root` now."""
    locks = root / ".mmalign" / "locks"
    processes = marked(RUN_MARK, checkout_mark(root))
    held = {name: _holder(locks / f"{name}.lock", handed_on=bool(processes)) for name in ("run", *STAGE_NAMES)}
    return Activity(held["run"], {name: found for name in STAGE_NAMES if (found := held[name]) is not None}, processes)


def stage_of(process: MarkedProcess) -> str | None:
    """The stage that a marked process works for; None for those of the whole run."""
    return process.stage_mark.partition(":")[0] or None


def is_held(path: Path) -> bool:
    """Whether any process holds the lock on `path`. Takes it for an instant, shared, where nobody does."""
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


def _holder(path: Path, *, handed_on: bool) -> Holder | None:
    try:
        noted = read_json(path)
        pid, command, started = int(noted["pid"]), str(noted["command"]), path.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        pid, command, started = 0, "unknown", 0.0  # not written yet, or a damaged file: the lock itself tells
    if pid and identity(pid) is None and not handed_on:
        return None
    return Holder(pid, command, datetime.fromtimestamp(started, UTC)) if is_held(path) else None
