"""The whole run, from data to summary. The flow (flows/pipeline_run.py) calls it and hands it a function that starts stages. It needs no server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import StageFault
from components.files import read_json
from components.operations.preconditions.checks import require
from components.operations.preconditions.situation import Situation, stages_to_run
from components.operations.run_logs import note_run
from components.processes.marks import RUN_MARK, new_run_mark
from components.registry.policy import POLICY_FILE, load_policy
from components.report.run_record import SUMMARY, close_record, on_monotonic_clock, open_record, write_summary
from components.report.summary import FINISHED, RunRecord, not_judged
from components.stages import StageName
from components.storage.data_version import sync_data
from components.storage.git import ask_git
from components.storage.integrity import remove_damaged
from components.storage.plan import plan, stage_parents
from components.storage.scratch import remove_finished_checkpoints, remove_finished_scratch
from flows.cancellation import RunCancelled
from flows.console import Console
from flows.dvc_processes import DvcProcesses
from flows.parameters import RunParameters
from flows.pipeline import Future, Pipeline
from flows.promote import judge_run
from flows.slots import Slots
from flows.stages import StageOutcome, fault_of, run_stage

Job = Callable[[], StageOutcome]
Submit = Callable[[StageName, Job], Future]


@dataclass(frozen=True)
class _Run:
    """A run under way. `began` is by `on_monotonic_clock`, `logs` its folder of logs in the checkout."""

    checkout: Checkout
    settings: Settings
    record: RunRecord
    began: float
    logs: Path
    cancel: threading.Event
    console: Console
    dvc: DvcProcesses


def whole_run(
    checkout: Checkout,
    parameters: RunParameters,
    *,
    submit: Submit,
    cancel: threading.Event,
    console: Console,
) -> dict[str, Any]:
    """Commit data, run stale stages, send the models through the gate, write the summary and return it.

    The caller has the run's lock (components.processes.guard.run_lock). `submit` starts a stage's job, and may repeat it. Raises UserError,
    StageFault or RunCancelled, after it has written the end into the summary.
    """
    began = parameters.started or time.time()
    settings = checkout.settings()
    load_policy(checkout.root / POLICY_FILE)  # reports a mistake in it before hours of training, not after
    os.environ.setdefault(RUN_MARK, new_run_mark(checkout))
    record = RunRecord("running", stages={}, git_sha=git_sha(checkout))
    clock = on_monotonic_clock(began)
    write_summary(checkout, record, clock)
    logs = Path("logs") / time.strftime("%Y%m%d-%H%M%S", time.localtime(began))
    run = _Run(checkout, settings, record, clock, logs, cancel, console, DvcProcesses(checkout))
    try:
        failure = _stages(run, parameters, submit)
        whole = failure is None and all(stage.status in FINISHED for stage in record.stages.values())
        if whole and not parameters.promote:
            record.verdicts = not_judged("this run was started without promotion; the next run judges")
        elif whole:
            _gate(run)
        record.status = "ok" if failure is None else "cancelled" if isinstance(failure, RunCancelled) else "failed"
    except BaseException:
        record.status = "cancelled" if cancel.is_set() else "failed"
        raise
    finally:
        run.dvc.close()
        close_record(checkout, record, clock)
    if failure is not None:
        raise failure
    summary: dict[str, Any] = read_json(checkout.root / SUMMARY)
    return summary


def _stages(run: _Run, parameters: RunParameters, submit: Submit) -> Exception | None:
    """Run the stale stages; returns the error of a stage that failed or was cancelled."""
    checkout, record = run.checkout, run.record
    fetched = not checkout.preferences.is_dir()
    record.data_version = sync_data(checkout, accept=parameters.accept_data, log=run.console.print)
    parents, steps = stage_parents(checkout), plan(checkout)
    if fetched:  # what these rows need could not be known before; whose rows they are, `mmalign run` has asked
        require(Situation(checkout, run.settings, stages_to_run(steps, tuple(parameters.stages)), bundled_rows=True), run.console.print)
    slots = Slots(run.settings)
    remove_finished_scratch(checkout, steps)
    open_record(checkout, record)
    run.dvc.environment["MLFLOW_RUN_ID"] = record.mlflow_run_id or ""
    note_run(checkout.root / run.logs, record.mlflow_run_id)

    judging = threading.Lock()

    def work(stage: StageName) -> StageOutcome:
        with judging:
            now = plan(checkout)
            remove_finished_checkpoints(checkout, now)  # so that the disk holds the checkpoints of one training at a time
        step = now[stage]
        if step.action == "skip":
            return StageOutcome(stage, "skipped")
        run.console.print(f"{stage}: {step.reason}")
        for path in remove_damaged(checkout, step.objects) if step.objects else ():
            run.console.print(f"{path} was damaged: removed from the cache, and the stage makes it again")
        return run_stage(
            stage,
            checkout=checkout,
            dvc=run.dvc,
            settings=run.settings,
            logs=run.logs,
            cancel=run.cancel,
            console=run.console,
        )

    pipeline = Pipeline(
        parents=parents,
        steps=steps,
        start=lambda stage: submit(stage, partial(work, stage)),
        slots=slots,
        changed=lambda: write_summary(checkout, record, run.began),  # so that `mmalign status` shows the run's progress
        cancel=run.cancel,
        only=tuple(parameters.stages),
    )
    record.stages = pipeline.records
    write_summary(checkout, record, run.began)
    pipeline.run()
    failure = pipeline.failure
    if failure is not None:
        record.failed_stage, record.log = failure.stage, str(failure.log)
    if pipeline.cancelled:
        return RunCancelled("the run was cancelled; the outputs of its finished stages stay, and the next run continues from them")
    return None if failure is None else fault_of(failure)


def _gate(run: _Run) -> None:
    """Record the verdicts. A registry that is away ends no run: the console says so, and the next run judges."""
    try:
        run.record.verdicts = judge_run(run.checkout, run.settings, logs=run.logs, cancel=run.cancel, console=run.console).summary()
    except StageFault as error:
        run.record.verdicts = not_judged(error)
        run.console.print(f"nothing was judged: {error}; the next run judges")


def git_sha(checkout: Checkout) -> str | None:
    """The commit that is checked out; None outside git."""
    head = ask_git(checkout.root, "rev-parse", "HEAD")
    return None if head is None else head.strip()
