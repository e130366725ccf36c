"""The flow `align`: the whole run as Prefect sees it. A worker that is given it on a schedule does what a person's `mmalign run` does."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.cli.environment import enter_checkout
from components.config import StageName
from components.guard import run_turn
from components.tracking.promotion import GateOutcome
from flows.cancellation import cancellation
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
def align(only: list[StageName] | None = None, accept_data: bool = False, started: float | None = None) -> dict[str, Any]:
    """Commit changed data, run what is stale, judge and promote, write and give the summary. Raises UserError, StageFault or RunCancelled."""
    root = enter_checkout()
    with cancellation() as cancel, run_turn(root):
        return whole_run(
            root,
            submit=_submit,
            judge=promote_task,
            cancel=cancel,
            screen=Screen(),
            only=tuple(only or ()),
            accept_data=accept_data,
            started=started,
        )


def _submit(stage: StageName, job: Job) -> Future:
    future: Future = stage_task.with_options(task_run_name=stage).submit(job)
    return future
