"""The flow `align`: Prefect's view of the whole run, the same for a schedule and for a person's `mmalign run`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from components.config.settings import load_settings
from components.operations.environment import enter_checkout
from components.processes.guard import run_lock
from components.processes.marks import FLOW_RUN
from components.registry.promotion import GateOutcome
from components.stages import StageName
from flows.cancellation import RunCancelled, cancellation
from flows.console import Console
from flows.limits import check_limits, limit_slots_taken
from flows.pipeline import Future
from flows.stages import StageOutcome
from flows.whole_run import GateJob, Job, RunOptions, whole_run


@task(name="stage", retries=0, cache_policy=NO_CACHE, persist_result=False)
def stage_task(job: Job) -> StageOutcome:
    """Run one stale stage."""
    return job()


@task(name="promote", retries=0, cache_policy=NO_CACHE, persist_result=False)
def promote_task(job: GateJob) -> GateOutcome:
    """Judge, register and promote the run's models."""
    return job()


@flow(name="align", retries=0, persist_result=False, log_prints=False)
def align(
    only: list[StageName] | None = None, accept_data: bool = False, promote: bool = True, started: float | None = None
) -> dict[str, Any] | State[Any]:
    """Commit changed data, run stale stages, judge and promote models, write and return the summary.

    Raises UserError or StageFault. A run that a person or the system stopped ends as Cancelled.
    """
    checkout = enter_checkout()
    with cancellation() as cancel, run_lock(checkout):
        settings, console, deployed = load_settings(), Console(), FLOW_RUN in os.environ
        options = RunOptions(tuple(only or ()), accept_data, promote, started)

        def submit(stage: StageName, job: Job) -> Future:
            slots = partial(limit_slots_taken, stage, settings, deployed=deployed, cancel=cancel, log=console.print)
            future: Future = stage_task.with_options(task_run_name=stage).submit(partial(_with_slots, slots, job))
            return future

        if deployed:
            check_limits(settings, options.only)
        try:
            return whole_run(checkout, options, submit=submit, judge=promote_task, cancel=cancel, console=console)
        except RunCancelled as cancelled:
            return Cancelled(message=str(cancelled))


def _with_slots(slots: Callable[[], AbstractContextManager[None]], job: Job) -> StageOutcome:
    with slots():
        return job()
