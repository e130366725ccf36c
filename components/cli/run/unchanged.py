"""The end of a run without a stale stage: its verdicts are those on record, the run is recorded, and its table printed.

This happens in a process of its own, which loads MLflow while `mmalign run` asks DVC what is stale: both take seconds. An order is a line of JSON
on its stdin; without one it ends with its stdin.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from components.checkout import Checkout
from components.errors import StageFault
from components.processes.faults import FAULT, explain
from components.stages import command

WAITS = 3  # exit code: a model waits for a verdict, so that the run has to judge


@contextmanager
def recording_process() -> Iterator[subprocess.Popen[str]]:
    """The process, for `record`, in the current folder; ended after the block."""
    process = subprocess.Popen(command("unchanged"), stdin=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def record(process: subprocess.Popen[str], stages: Sequence[str], data_version: str | None, started: float) -> int | None:
    """Let the process record a run that skipped all `stages`; returns the exit code, None where a model waits for a verdict."""
    process.communicate(json.dumps({"stages": list(stages), "data_version": data_version, "started": started}) + "\n")
    if process.returncode == WAITS:
        return None
    return process.returncode if process.returncode >= 0 else FAULT


def main() -> int:
    """Load what is slow to load, then do what the order says; returns the exit code."""
    from components.registry.promotion import recorded_verdicts
    from components.report.run_record import close_record, on_monotonic_clock, open_record
    from components.report.summary import RunRecord, StageRecord, not_judged
    from components.report.table import print_summary
    from components.tracking.provenance import git_state
    from components.tracking.store import reach

    checkout = Checkout(Path.cwd())
    with suppress(Exception):  # what needs the store reports that it is away
        reach(checkout)
    line = sys.stdin.readline()
    if not line:
        return 0
    order = json.loads(line)
    try:
        verdicts = recorded_verdicts(checkout)
    except StageFault as error:
        print(f"nothing was judged: {error}; the next run judges")
        summary = not_judged(error)
    else:
        if verdicts is None:
            return WAITS
        summary = verdicts.summary()
    records = {name: StageRecord("skipped") for name in order["stages"]}
    run = RunRecord("running", records, data_version=order["data_version"], git_sha=git_state(checkout).sha, verdicts=summary)
    open_record(checkout, run)
    run.status = "ok"
    close_record(checkout, run, on_monotonic_clock(order["started"]))
    print_summary(checkout)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command too, which ends this process
    gc.set_threshold(100_000, 50, 100)  # as for the command
    try:
        code = main()
    except Exception as error:  # noqa: BLE001 -- the last resort: a sentence for the person, the trace in a log
        code = explain(error)
    sys.stdout.flush()
    os._exit(code)  # libraries take a second to tear themselves down
