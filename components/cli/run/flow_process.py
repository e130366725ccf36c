"""Starts the flow as a process, passes signals on to it, and ends all its processes.

The flow has its own session, so that Ctrl-C reaches only this process, which then ends the flow: stages get their grace period, and the
summary says `cancelled`. A second Ctrl-C ends everything at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

from components.checkout import Checkout
from components.files import read_json, version_of, write_json
from components.processes.faults import FAULT, INTERRUPTED
from components.processes.guard import GRACE_SECONDS
from components.processes.marks import RUN_MARK, WATCHED, identity, kill_all, marked, new_run_mark
from components.report.run_record import SUMMARY
from components.report.table import print_summary
from components.stages import command

TIDY_SECONDS = GRACE_SECONDS + 20  # for the flow's end after the signal: the stage's grace period, the summary, the record


def run_flow(checkout: Checkout, parameters: dict[str, Any]) -> int:
    """Run the flow with `parameters` to its end and print the summary; returns the exit code. The caller holds the run lock."""
    mark = new_run_mark(checkout)
    environment = {**os.environ, RUN_MARK: mark, WATCHED: identity(os.getpid()) or ""}
    signals = _Signals()
    handlers = {number: signal.signal(number, signals.note) for number in (signal.SIGINT, signal.SIGTERM)}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it, and so must the run
        handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, signals.note)
    earlier = version_of(checkout.summary)
    process = subprocess.Popen(
        [*command("flow"), json.dumps(parameters)],
        cwd=checkout.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = _wait(process, signals)
    finally:
        kill_all(lambda: marked(RUN_MARK, mark), reap=process.poll)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if code < 0:
        print(f"mmalign: the flow was ended by signal {-code}; `mmalign run` continues from there", file=sys.stderr)
    refused = version_of(checkout.summary) == earlier  # a run that was refused before it began has no summary
    with suppress(OSError):  # a full disk, which the flow has named: the next run writes another summary
        _repair_summary(checkout, cancelled=signals.times > 0)
    if code == 0 or not refused:
        print_summary(checkout)
    if signals.times:
        return INTERRUPTED
    return FAULT if code < 0 else code


class _Signals:
    """Counts the requests of a person or the system to end."""

    def __init__(self) -> None:
        self.times = 0

    def note(self, number: int = 0, frame: FrameType | None = None) -> None:  # noqa: ARG002 -- the signature of a signal handler
        """Count a signal."""
        self.times += 1


def _wait(process: subprocess.Popen[bytes], signals: _Signals) -> int:
    waited = 0.0
    ending = False
    while True:
        try:
            return process.wait(0.2)
        except subprocess.TimeoutExpired:
            if signals.times and not ending:
                ending = True
                print("mmalign: ending the run; press Ctrl-C once more to end it at once", file=sys.stderr)
                process.terminate()
            waited += 0.2 * ending
            if signals.times > 1 or waited > TIDY_SECONDS:
                process.kill()


def _repair_summary(checkout: Checkout, *, cancelled: bool) -> None:
    """Correct the status `running` that a killed flow leaves."""
    path = checkout.root / SUMMARY
    if not path.is_file():
        return
    summary = read_json(path)
    if summary["status"] == "running":
        write_json(path, {**summary, "status": "cancelled" if cancelled else "failed", "failed_stage": None, "log": None})
