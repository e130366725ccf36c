"""How often a stage is tried: which faults are repeated, after what pauses, and the count of attempts, which outlives a killed flow.

Prefect's own retries repeat a stage's task. They die with the flow, so the attempts of a run are counted in a file too: the run that goes on from
a killed one has the attempts that are left.

A stage that failed has a log of its own. Its task returns a failed state with the stage's sentence instead of raising: Prefect would log a trace
of this program, which says nothing about the stage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from components.checkout import Checkout
from components.config.ops import DeploymentSettings
from components.errors import UserError
from components.files import read_json, write_json
from components.stages import StageName
from flows.pipeline import Future
from flows.run_states import failed
from flows.stages import StageOutcome, fault_of
from flows.whole_run import Job

NAMES = {"skipped": "Skipped", "ok": "Restored"}  # states of tasks whose stage's command did not run


def pauses(settings: DeploymentSettings) -> list[float]:
    """Seconds before each retry. Each pause doubles the last: a short outage costs little time, and the retries outlast a long one."""
    return [settings.retry_seconds * 2**number for number in range(settings.retries)]


def is_repeated(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a retry of a stage can end better: only after a fault of the infrastructure."""
    return isinstance(state.data, StageOutcome) and state.data.kind == "infrastructure"


@task(name="stage", cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_repeated)
def stage_task(job: Job) -> State[Any] | StageOutcome:
    """Judge one stage, and run it if it is stale."""
    try:
        outcome = job()
    except UserError as mistake:
        return failed(str(mistake), mistake)
    if outcome.end == "cancelled":
        return Cancelled(message="the run was cancelled")
    if outcome.end not in NAMES:
        return failed(str(fault_of(outcome)), outcome)
    return outcome if outcome.ran else Completed(name=NAMES[outcome.end], data=outcome)


def attempts_file(checkout: Checkout, run_id: str) -> Path:
    """The count of attempts, by stage, of a run and of the runs that go on from it."""
    return checkout.attempts / "runs" / f"{run_id}.json"


class Attempts:
    """Starts the tasks of a run's stages.

    `waits` are the pauses before retries, in seconds; `file` has the attempts of the flows before. `troubles` are the sentences of the faults
    that were repeated.
    """

    def __init__(self, waits: list[float], file: Path | None, cancel: threading.Event, log: Callable[[str], None]) -> None:
        self._waits = waits
        self._file = file
        self._begun: dict[str, int] = read_json(file) if file is not None and file.is_file() else {}
        self._cancel = cancel
        self._log = log
        self._lock = threading.Lock()
        self.troubles: list[str] = []

    def submit(self, stage: StageName, job: Job) -> Future:
        """Start a stage's task."""
        left = self._waits[self._begun.get(stage, 0) :]
        faults: list[str] = []

        def attempt() -> StageOutcome:
            # Prefect would sleep through the pause, and through a cancellation, so that it lies here.
            if faults and self._is_cancelled_in_pause(stage, faults, left):
                return StageOutcome(stage, "cancelled")
            self._count(stage, 1)
            outcome = job()
            if outcome.end == "skipped":
                self._count(stage, -1)
            if outcome.kind == "infrastructure":
                faults.append(str(fault_of(outcome)))
            return outcome

        started: Any = stage_task.with_options(task_run_name=stage, retries=len(left)).submit(attempt)
        return _StageFuture(stage, started)

    def _is_cancelled_in_pause(self, stage: str, faults: list[str], left: list[float]) -> bool:
        """Wait before a retry; returns whether the run was cancelled meanwhile."""
        pause = left[len(faults) - 1]
        self.troubles.append(faults[-1])
        self._log(f"{faults[-1]}; attempt {len(faults) + 1} of {len(left) + 1} of {stage} starts in {pause:g} s")
        return self._cancel.wait(pause)

    def _count(self, stage: str, number: int) -> None:
        with self._lock:
            self._begun[stage] = self._begun.get(stage, 0) + number
            if self._file is not None:
                write_json(self._file, self._begun)


class _StageFuture:
    """A task's future whose result is the stage's outcome, however the stage ended."""

    def __init__(self, stage: StageName, future: Any) -> None:
        self._stage = stage
        self._future = future

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call `fn` when the task has ended."""
        self._future.add_done_callback(fn)

    def result(self) -> StageOutcome:
        """The outcome. Raises what the judgement of the stage raised."""
        outcome = self._future.result(raise_on_failure=False)
        if self._future.state.is_cancelled():
            return StageOutcome(self._stage, "cancelled")
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, StageOutcome)
        return outcome
