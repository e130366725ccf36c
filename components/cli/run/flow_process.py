"""Starts the flow as a process, passes signals on to it, and leaves nothing of it behind.

The flow is in a session of its own, so that Ctrl-C reaches this process alone, which asks the flow to end: stages get their grace period,
and the summary says `cancelled`. A second Ctrl-C ends everything at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from components.files import read_json, write_json
from components.processes.faults import FAULT, INTERRUPTED, report_outcome
from components.processes.guard import GRACE_SECONDS, RUN_LOCK, Lock, Watchdog
from components.processes.marks import RUN_MARK, WATCHED, identity, kill_all, marked, new_run_mark
from components.report.run_record import SUMMARY
from components.report.table import print_summary

TIDY_SECONDS = GRACE_SECONDS + 20  # for the flow's own end after it was asked: the stage's grace period, the summary, the record


def run_flow(root: Path, parameters: dict[str, Any], turn: Lock) -> int:
    """Run the flow with `parameters` to its end and print the summary; gives the exit code. The flow takes over `turn`."""
    mark = new_run_mark(root)
    environment = {**os.environ, RUN_MARK: mark, WATCHED: identity(os.getpid()) or "", RUN_LOCK: str(turn.descriptor)}
    asked = _Asked()
    watched = os.environ.get(WATCHED)  # where a flow of a deployment started this: the run must not outlive it
    watchdog = Watchdog(watched, asked.note) if watched else None
    handlers = {number: signal.signal(number, asked.note) for number in (signal.SIGINT, signal.SIGTERM)}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's ignoring stays
        handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, asked.note)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.launch", json.dumps(parameters)],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=(turn.descriptor,),
        start_new_session=True,
    )
    try:
        code = _wait(process, asked)
    finally:
        kill_all(lambda: marked(RUN_MARK, mark), reap=process.poll)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if watchdog is not None:
            watchdog.forget()
    if code < 0:
        said = f"the flow was ended by signal {-code}; run again to go on from there"
        print(f"mmalign: {said}", file=sys.stderr)
        report_outcome("cancelled" if asked.times else "infrastructure", said)
    _mend_summary(root, cancelled=asked.times > 0)
    # A run that was refused before it began has no figures of its own to show.
    if code == 0 or parameters["started"] < _written(root):
        print_summary(root)
    if asked.times:
        return INTERRUPTED
    return FAULT if code < 0 else code


class _Asked:
    """How often a person or the system asked this process to end."""

    def __init__(self) -> None:
        self.times = 0

    def note(self, number: int = 0, frame: FrameType | None = None) -> None:  # noqa: ARG002 -- the signature of a signal handler
        """Count a signal, or that the watched process is gone."""
        self.times += 1


def _wait(process: subprocess.Popen[bytes], asked: _Asked) -> int:
    waited = 0.0
    told = False
    while True:
        try:
            return process.wait(0.2)
        except subprocess.TimeoutExpired:
            if asked.times and not told:
                told = True
                print("mmalign: ending the run; once more ends it at once", file=sys.stderr)
                process.terminate()
            waited += 0.2 * told
            if asked.times > 1 or waited > TIDY_SECONDS:
                process.kill()


def _written(root: Path) -> float:
    path = root / SUMMARY
    return path.stat().st_mtime if path.is_file() else 0.0


def _mend_summary(root: Path, *, cancelled: bool) -> None:
    """A flow that was killed left `running` behind."""
    path = root / SUMMARY
    if not path.is_file():
        return
    summary = read_json(path)
    if summary["status"] == "running":
        write_json(path, {**summary, "status": "cancelled" if cancelled else "failed", "failed_stage": None, "log": None})
