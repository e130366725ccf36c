"""One run of a deployment and its attempts: which faults are retried, and after what pauses."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass, replace

from components.checkout import Checkout
from components.config.deployments import DeploymentSettings
from components.config.settings import Settings
from components.processes.guard import GRACE_SECONDS, RUN_LOCK, Lock
from components.processes.marks import DEPLOYMENT, FLOW_RUN, kill_all, marked
from components.processes.outcome import OUTCOME, RunOutcome, read_outcome
from components.stages import command
from flows.cancellation import RunCancelled
from flows.console import Console
from flows.parameters import RunParameters
from flows.run_page import Page
from flows.run_states import mark_killed_runs
from flows.supervisor import Command, supervise

END_SECONDS = GRACE_SECONDS + 4  # that `mmalign run` has to end its stages and close its record: Prefect gives this process 30


@dataclass(frozen=True)
class ScheduledRun:
    """One run of a deployment. `name` is what people read; `run_id` is the flow run's id on Prefect's server."""

    checkout: Checkout
    settings: Settings
    parameters: RunParameters
    run_id: str
    deployment: str
    name: str
    console: Console
    cancel: threading.Event


def pauses(settings: DeploymentSettings) -> list[float]:
    """Seconds before each retry. Each pause doubles the last: a short outage costs little time, and the retries outlast a long one."""
    return [settings.retry_seconds * 2**number for number in range(settings.retries)]


def is_retried(outcome: RunOutcome) -> bool:
    """Whether a retry can end better: only after a fault of the infrastructure."""
    return outcome.kind == "infrastructure"


def attempts(run: ScheduledRun, checkout: Checkout, run_lock: Lock, page: Page) -> tuple[RunOutcome, list[str]]:
    """Repeat `mmalign run` in `checkout` until it succeeds, fails for good or uses up its retries.

    Returns the last outcome and the sentences of the attempts before it. Raises RunCancelled.
    """
    waits = pauses(run.settings.deployments)
    troubles: list[str] = []
    mark_killed_runs(run.run_id)
    while True:
        outcome = _attempt(run, checkout, run_lock, page)
        mark_killed_runs(run.run_id)
        if run.cancel.is_set():
            raise RunCancelled(outcome.sentence or "the run was cancelled")
        if not is_retried(outcome) or len(troubles) == len(waits):
            return outcome, troubles
        pause = waits[len(troubles)]
        troubles.append(outcome.sentence)
        run.console.print(f"{outcome.sentence}; attempt {len(troubles) + 1} of {len(waits) + 1} starts in {pause:g} s")
        if run.cancel.wait(pause):
            raise RunCancelled("the run was cancelled before its next attempt")


def _attempt(run: ScheduledRun, checkout: Checkout, run_lock: Lock, page: Page) -> RunOutcome:
    outcome_file = checkout.state / f"outcome-{run.run_id}.json"
    outcome_file.unlink(missing_ok=True)
    log = checkout.logs / f"{run.deployment}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    environment = {
        FLOW_RUN: run.run_id,
        DEPLOYMENT: run.deployment,
        OUTCOME: str(outcome_file),
        RUN_LOCK: str(run_lock.descriptor),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout.root), os.environ.get("PYTHONPATH", "")])),
    }
    words = [*command("cli"), "run", *_arguments(run.parameters)]
    with page.following():
        ended = supervise(
            Command(words, checkout, log, environment, pass_fds=[run_lock.descriptor]),
            stage=run.deployment,
            deadline_seconds=math.inf,  # each stage has its own
            cancel=run.cancel,
            console=run.console,
            grace_seconds=END_SECONDS,
        )
    # Each stage has its own mark, which this process does not know. All of them carry the flow run's.
    kill_all(lambda: marked(FLOW_RUN, run.run_id))
    outcome = read_outcome(outcome_file, ended.returncode)
    outcome_file.unlink(missing_ok=True)
    return outcome if outcome.log else replace(outcome, log=str(log.relative_to(checkout.root)))


def _arguments(parameters: RunParameters) -> list[str]:
    arguments = [word for override in parameters.overrides for word in ("--set", override)]
    arguments += [word for stage in parameters.stages for word in ("--only", stage)]
    return [
        *arguments,
        *(["--accept-data"] if parameters.accept_data else []),
        *(["--bundled-rows"] if parameters.bundled_rows else []),
        *([] if parameters.promote else ["--no-promote"]),
    ]
