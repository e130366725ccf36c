"""Runs a command and ends every process of it, however it ends.

- The command gets its own session, and a mark in its environment that all its children inherit.
- It writes straight into a log file (a pipe would make it depend on this process). The console shows new lines, throttled.
- It ends by itself, at its deadline, or on `cancel`. Then its group gets SIGTERM, a grace period follows, every process with the mark gets
  SIGKILL, and a check proves that none is left. The group is not enough: torchrun's workers have their own sessions.
- The command's environment names this process. Stages end themselves when it has ended (components/processes/guard.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from components.checkout import Checkout
from components.errors import StageFault
from components.processes.guard import GRACE_SECONDS
from components.processes.log_lines import last_lines
from components.processes.marks import STAGE_MARK, WATCHED, MarkedProcess, identity, kill_all, marked, new_stage_mark, wait_until_ended
from flows.console import Console
from flows.dvc_processes import DvcProcesses

End = Literal["ok", "failed", "deadline", "cancelled"]
POLL_SECONDS = 0.2


class Process(Protocol):
    """What is supervised: a process, or a command in one. `pid` leads a session."""

    pid: int

    @property
    def returncode(self) -> Any:
        """The exit code once it has ended."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""


@dataclass(frozen=True)
class Command:
    """A command to supervise: `words` in the checkout, its output into `log`. With `dvc` they are words of DVC, for its processes."""

    words: Sequence[str]
    checkout: Checkout
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    dvc: DvcProcesses | None = None


@dataclass(frozen=True)
class Outcome:
    """How a supervised command ended. `mark` is the mark of its processes."""

    end: End
    returncode: int
    seconds: float
    log: Path
    mark: str


def supervise(
    command: Command,
    *,
    stage: str,
    deadline_seconds: float,
    cancel: threading.Event,
    console: Console,
    grace_seconds: float = GRACE_SECONDS,
    paused: Callable[[str], bool] = lambda _: False,
) -> Outcome:
    """Run `command` to its end. Raises StageFault where processes survive even SIGKILL.

    `paused` takes the command's mark; time while it returns True does not count towards the deadline.
    """
    mark = new_stage_mark(stage)
    watched = identity(os.getpid())
    assert watched is not None, "this process is alive"
    marks = {STAGE_MARK: mark, WATCHED: watched, "PYTHONUNBUFFERED": "1"}
    log = command.log
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    log.touch()
    with console.follow(log, stage):
        process = _started(command, {**command.environment, **marks})
        try:
            end = _wait(process, started + deadline_seconds, cancel, lambda: paused(mark))
        finally:
            # Also when this thread is interrupted: no process may outlive its supervision.
            _end_all(process, mark, grace_seconds)
    outcome = Outcome(end, process.returncode, time.monotonic() - started, log, mark)
    if outcome.end == "deadline":
        minutes = f"{deadline_seconds / 60:g} minutes (stages.{stage}.deadline_minutes)"
        console.print(f"stage {stage} passed its deadline of {minutes} and was ended")
    if outcome.end in {"failed", "deadline"}:
        console.print(f"--- the last lines of {log} ---", *last_lines(log, 50), f"--- stage {stage} ended; its whole log: {log} ---")
    return outcome


def _started(command: Command, environment: Mapping[str, str]) -> Process:
    if command.dvc is not None:
        return command.dvc.run(command.words, command.log, environment)
    with command.log.open("ab") as output:
        return subprocess.Popen(
            list(command.words),
            cwd=command.checkout.root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(process: Process, deadline: float, cancel: threading.Event, paused: Callable[[], bool]) -> End:
    polled = time.monotonic()
    while process.poll() is None:
        if cancel.wait(POLL_SECONDS):
            return "cancelled"
        now = time.monotonic()
        if paused():
            deadline += now - polled
        elif now > deadline:
            return "deadline"
        polled = now
    return "ok" if process.returncode == 0 else "failed"


def _end_all(process: Process, mark: str, grace_seconds: float) -> None:
    def left() -> list[MarkedProcess]:
        return marked(STAGE_MARK, mark)

    if process.poll() is None or left():
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            pass  # the leader and its group have ended; the mark finds the rest
        wait_until_ended(left, grace_seconds, reap=process.poll)
        survivors = kill_all(left, reap=process.poll)
        if survivors:
            pids = " ".join(str(survivor.pid) for survivor in survivors)
            raise StageFault(
                f"processes {pids} of stage {mark.partition(':')[0]} survive SIGKILL, since the kernel blocks them: restart the machine"
            )
    process.wait()
