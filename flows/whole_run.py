"""The whole run, from data to summary. Prefect calls it (flows/align.py) and gives it a way to start stages; nothing here needs a server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from components.config.settings import Settings, load_settings
from components.errors import InfrastructureFault, StageFault, TrainingFault, UserError
from components.files import read_json
from components.operations.run_logs import note_run
from components.processes.marks import RUN_MARK, new_run_mark
from components.registry.policy import POLICY_FILE, load_policy
from components.registry.promotion import GateOutcome
from components.report.run_record import SUMMARY, close_record, open_record, write_summary
from components.report.summary import DONE, RunRecord, not_judged
from components.stages import StageName
from components.storage.data_version import sync_data
from components.storage.plan import Step, plan, stage_parents
from components.storage.scratch import remove_finished_scratch
from flows.cancellation import RunCancelled
from flows.pipeline import Future, Pipeline
from flows.promote import judge_run
from flows.screen import Screen
from flows.slots import Slots
from flows.stages import StageOutcome, run_stage

Job = Callable[[], StageOutcome]
Submit = Callable[[StageName, Job], Future]
GateJob = Callable[[], GateOutcome]


def whole_run(
    root: Path,
    *,
    submit: Submit,
    judge: Callable[[GateJob], GateOutcome],
    cancel: threading.Event,
    screen: Screen,
    only: tuple[StageName, ...] = (),
    accept_data: bool = False,
    promote: bool = True,
    started: float | None = None,
) -> dict[str, Any]:
    """Commit data, run what is stale, send the models through the gate, write the summary and give it.

    The caller holds the run lock (components.processes.guard.run_lock).
    Without `promote` no model is judged. `started` is when the run began, in seconds since the epoch. Raises UserError, StageFault or
    RunCancelled after the summary says so.
    """
    began = started or time.time()
    settings = load_settings(root / "params.yaml")
    load_policy(root / POLICY_FILE)  # a mistake in it is said before hours of training and not after
    os.environ.setdefault(RUN_MARK, new_run_mark(root))
    record = RunRecord("running", stages={}, git_sha=git_sha(root))
    write_summary(root, record, began)
    logs = Path("logs") / time.strftime("%Y%m%d-%H%M%S", time.localtime(began))
    try:
        failure = _stages(root, record, settings, submit, cancel, screen, only, accept_data, logs, began)
        whole = failure is None and all(stage.status in DONE for stage in record.stages.values())
        if whole and not promote:
            record.verdicts = not_judged("this run was to promote nothing; the next one judges")
        elif whole:
            _gate(record, partial(judge, partial(judge_run, root, settings, logs=logs, cancel=cancel, screen=screen)), screen)
        record.status = "ok" if failure is None else "cancelled" if isinstance(failure, RunCancelled) else "failed"
    except BaseException:
        record.status = "cancelled" if cancel.is_set() else "failed"
        raise
    finally:
        close_record(root, record, began)
    if failure is not None:
        raise failure
    summary: dict[str, Any] = read_json(root / SUMMARY)
    return summary


def _stages(
    root: Path,
    record: RunRecord,
    settings: Settings,
    submit: Submit,
    cancel: threading.Event,
    screen: Screen,
    only: tuple[StageName, ...],
    accept_data: bool,
    logs: Path,
    began: float,
) -> Exception | None:
    record.data_version = sync_data(root, accept=accept_data, log=screen.say)
    parents = stage_parents(root)
    slots = Slots(settings)
    remove_finished_scratch(root, plan(root))
    open_record(root, record)
    note_run(root / logs, record.mlflow_run_id)

    def start(stage: StageName) -> Future:
        tied = {"MLFLOW_RUN_ID": record.mlflow_run_id or ""}
        job = partial(run_stage, stage, root=root, settings=settings, logs=logs, cancel=cancel, screen=screen, environment=tied)
        return submit(stage, job)

    def judge() -> Mapping[str, Step]:
        write_summary(root, record, began)  # whoever looks meanwhile sees how far it is
        return plan(root)

    pipeline = Pipeline(parents=parents, judge=judge, start=start, slots=slots, say=screen.say, cancel=cancel, only=only)
    record.stages = pipeline.records
    pipeline.run()
    failure = pipeline.failure
    if failure is not None:
        record.failed_stage, record.log = failure.stage, str(failure.log)
    return _explain(failure, cancelled=pipeline.cancelled)


def _gate(record: RunRecord, judge: Callable[[], GateOutcome], screen: Screen) -> None:
    """The verdicts. A registry that can't be reached is said, and ends no run: the next one judges."""
    try:
        record.verdicts = judge().summary()
    except StageFault as error:
        record.verdicts = not_judged(error)
        screen.say(f"nothing was judged: {error}; the next run judges")


def _explain(failure: StageOutcome | None, *, cancelled: bool) -> Exception | None:
    if cancelled:
        return RunCancelled("the run was cancelled; what its finished stages made is kept, and the next run goes on from there")
    if failure is None:
        return None
    if failure.mistake is not None and failure.kind == "mistake":
        return UserError(f"stage {failure.stage}: {failure.mistake}", stage=failure.stage, log=failure.log)
    why = "passed its deadline" if failure.end == "deadline" else "failed"
    because = f" ({failure.sentence})" if failure.sentence and failure.kind == "infrastructure" else ""
    kinds = {"infrastructure": InfrastructureFault, "training": TrainingFault}
    fault = kinds.get(failure.kind or "fault", StageFault)
    return fault(f"stage {failure.stage} {why}{because}; its log: {failure.log}", stage=failure.stage, log=failure.log)


def git_sha(root: Path) -> str | None:
    """The commit that is checked out; None outside git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
