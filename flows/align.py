"""The flow `align`: the whole run as Prefect sees it. A worker that is given it on a schedule does what a person's `mmalign run` does."""

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
from flows.limits import check_limits, place_taken
from flows.pipeline import Future
from flows.screen import Screen
from flows.stages import StageOutcome
from flows.whole_run import GateJob, Job, whole_run


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
    """Commit changed data, run what is stale, judge and promote, write and give the summary. Raises UserError or StageFault; a run that was
    stopped from outside ends as Cancelled."""
    root = enter_checkout()
    with cancellation() as cancel, run_lock(root):
        settings, screen, deployed = load_settings(), Screen(), FLOW_RUN in os.environ

        def submit(stage: StageName, job: Job) -> Future:
            place = partial(place_taken, stage, settings, deployed=deployed, cancel=cancel, say=screen.say)
            future: Future = stage_task.with_options(task_run_name=stage).submit(partial(_in_place, place, job))
            return future

        if deployed:
            check_limits(settings, tuple(only or ()))
        try:
            return whole_run(
                root,
                submit=submit,
                judge=promote_task,
                cancel=cancel,
                screen=screen,
                only=tuple(only or ()),
                accept_data=accept_data,
                promote=promote,
                started=started,
            )
        except RunCancelled as cancelled:
            return Cancelled(message=str(cancelled))


def _in_place(place: Callable[[], AbstractContextManager[None]], job: Job) -> StageOutcome:
    with place():
        return job()
