"""Runs a command so that nothing of it is left when it ends, however it ends.

- The command gets a session of its own and a mark in its environment, which everything that it starts inherits.
- Its output goes straight into a log file (a pipe would make it depend on this process); the screen shows what is new in it, throttled.
- It ends by itself, on its deadline, or on `cancel`. Then: SIGTERM to its group, a grace period, SIGKILL to every process that carries the
  mark, and a check that none is left. torchrun's workers have sessions of their own, so the group alone would not do.
- The process that runs this is named in the command's environment; stages end themselves when it is gone (components/processes/guard.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.errors import StageFault
from components.processes.guard import GRACE_SECONDS
from components.processes.log_lines import last_lines
from components.processes.marks import STAGE_MARK, WATCHED, MarkedProcess, identity, kill_all, marked, new_stage_mark, wait_until_ended
from flows.screen import Screen

End = Literal["ok", "failed", "deadline", "cancelled"]
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a supervised command ended. `mark` is what its processes carried."""

    end: End
    returncode: int
    seconds: float
    log: Path
    mark: str


def supervise(
    command: Sequence[str],
    *,
    stage: str,
    root: Path,
    log: Path,
    deadline_seconds: float,
    cancel: threading.Event,
    screen: Screen,
    environment: Mapping[str, str] | None = None,
    grace_seconds: float = GRACE_SECONDS,
    pass_fds: Sequence[int] = (),
    paused: Callable[[str], bool] = lambda _: False,
) -> Outcome:
    """Run `command` in `root` and give its outcome. `pass_fds` stay open in it. Raises StageFault where processes survive even SIGKILL.

    Time in which `paused` holds, asked with the command's mark, does not count towards the deadline.
    """
    mark = new_stage_mark(stage)
    watched = identity(os.getpid())
    assert watched is not None, "this process is alive"
    marks = {STAGE_MARK: mark, WATCHED: watched, "PYTHONUNBUFFERED": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as output, screen.follow(log, stage):
        process = subprocess.Popen(
            list(command),
            cwd=root,
            env={**os.environ, **(environment or {}), **marks},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        try:
            end = _wait(process, started + deadline_seconds, cancel, lambda: paused(mark))
        finally:
            # Also when this thread is interrupted: what was started must not outlive its supervision.
            _end_all(process, mark, grace_seconds)
    outcome = Outcome(end, process.returncode, time.monotonic() - started, log, mark)
    if outcome.end == "deadline":
        screen.say(
            f"stage {stage} passed its deadline of {deadline_seconds / 60:g} minutes and was ended (stages.{stage}.deadline_minutes)"
        )
    if outcome.end in {"failed", "deadline"}:
        screen.say(f"--- the last lines of {log} ---", *last_lines(log, 50), f"--- stage {stage} ended; its whole log: {log} ---")
    return outcome


def _wait(process: subprocess.Popen[bytes], deadline: float, cancel: threading.Event, paused: Callable[[], bool]) -> End:
    looked = time.monotonic()
    while process.poll() is None:
        if cancel.wait(POLL_SECONDS):
            return "cancelled"
        now = time.monotonic()
        if paused():
            deadline += now - looked
        elif now > deadline:
            return "deadline"
        looked = now
    return "ok" if process.returncode == 0 else "failed"


def _end_all(process: subprocess.Popen[bytes], mark: str, grace_seconds: float) -> None:
    def left() -> list[MarkedProcess]:
        return marked(STAGE_MARK, mark)

    if process.poll() is None or left():
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            pass  # the leader is gone and so is its group; the mark finds the rest
        wait_until_ended(left, grace_seconds, reap=process.poll)
        survivors = kill_all(left, reap=process.poll)
        if survivors:
            pids = " ".join(str(survivor.pid) for survivor in survivors)
            raise StageFault(
                f"processes {pids} of stage {mark.partition(':')[0]} survive SIGKILL (blocked in the kernel): nothing may run over them"
            )
    process.wait()
