"""One run of the stale stages, as `mmalign run` does it (components/cli/run/run.py), in the checkout or in a copy of it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass

from components.checkout import Checkout
from components.cli.run.unchanged import record, recording_process
from components.operations.preconditions.readiness import make_ready
from components.processes.guard import run_lock
from components.stages import StageName
from components.storage.clones import work_in
from components.storage.copies import commit_data, fill_copy, workspace_of
from components.storage.scratch import remove_finished_scratch


@dataclass(frozen=True)
class Wanted:
    """What a person wants of a run: the options of `mmalign run`."""

    assignments: tuple[str, ...] = ()
    stages: tuple[StageName, ...] = ()
    save: bool = False
    accept_data: bool = False
    bundled_rows: bool = False
    promote: bool = True
    rehearse: bool = True


def workspace(own: Checkout, wanted: Wanted) -> Checkout:
    """Where the run works. Raises UserError for a mistake in its settings."""
    return own if wanted.save else workspace_of(own, wanted.assignments)


def one_run(own: Checkout, wanted: Wanted, started: float | None = None) -> int:
    """Run to the end and print the summary; returns the exit code. `started` is in seconds since the epoch. Raises UserError."""
    os.chdir(own.root)  # an earlier run of this process may have worked in a copy
    began = time.time() if started is None else started
    checkout = workspace(own, wanted)
    with run_lock(checkout), ExitStack() as stack:
        if checkout != own:
            commit_data(own, accept=wanted.accept_data, log=log)
            fill_copy(own, checkout, wanted.assignments, log)
            work_in(checkout, own)
        recording = stack.enter_context(recording_process()) if wanted.promote else None
        ready = make_ready(
            checkout,
            log,
            overrides=wanted.assignments,
            stages=wanted.stages,
            accept_data=wanted.accept_data,
            bundled_rows=wanted.bundled_rows,
        )
        if recording is not None:
            if ready.is_current:
                remove_finished_scratch(checkout, ready.steps or {})
                code = record(recording, list(ready.steps or {}), ready.state.version, began)
                if code is not None:
                    return code
            recording.kill()
        from components.cli.run.flow_process import run_flow

        if wanted.rehearse and not wanted.stages:
            from components.rehearsal.first import rehearse_first

            rehearse_first(checkout, ready.to_run)
        parameters = {"stages": list(wanted.stages), "accept_data": wanted.accept_data, "promote": wanted.promote, "started": began}
        return run_flow(checkout, parameters)


def log(words: str) -> None:
    """Print a line at once."""
    print(words, flush=True)
